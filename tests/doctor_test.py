"""The doctor: real checks of rules and of a local endpoint, good and bad."""

import pathlib
import re

import pytest

from tests.clients import server
from tests.serving import small
from userrl_jax import config as config_lib
from userrl_jax import config_rules
from userrl_jax import doctor
from userrl_jax import flags

KEY = "sk-secret-of-the-doctor"


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  c = config_lib.Config(out_dir=str(tmp_path / "run"))
  c.model.num_layers = 1
  c.gyms.names = ("function", "telepathy")
  c.gyms.num_train_tasks = 16
  c.gyms.num_test_tasks = 4
  c.evaluation.num_tasks = 4
  c.cold_start.episodes_per_step = c.base.episodes_per_step = 8
  return c


def with_endpoint(config, base_url, **changes):
  config.user = config_lib.User(
    kind="endpoint",
    model="small",
    base_url=base_url,
    num_retries=0,
    num_reasks=1,
    timeout_s=15.0,
    **changes,
  )
  return config


def examined(config):
  config_rules.validate(config)
  return {line.subject: line for line in doctor.examine(config)}


def test_rules_pass_without_a_key(config, capsys):
  command = flags.Command((), "x.py", {})
  doctor.main(config, command)
  printed = capsys.readouterr().out
  assert "ok   user: rules" in printed and "0 fail" in printed
  for gym in config.gyms.names:
    assert f"ok   gym {gym}: score 1.00 in" in printed
  assert "asks no model" in printed
  assert not pathlib.Path(config.out_dir).exists()


def test_a_model_in_this_process_plays_too(config, tmp_path):
  folder = small.chain_folder(tmp_path / "yes", small.VERDICT)
  judge = small.chain_folder(tmp_path / "right", small.RIGHT)
  config.gyms.names = ("telepathy",)
  config.user = config_lib.User(kind="local", model=str(folder))
  config.judge.model = str(judge)
  config.local = config_lib.Local(max_length=1536, num_rows=small.NUM_ROWS)
  lines = examined(config)
  assert f"the model of {folder} answers in this" in lines["user"].message
  assert re.search(
    r"score 1.00 in .* 100% of \d+ replies parsed",
    lines["gym telepathy"].message,
  )
  assert "calls at most" in lines["a whole run"].message


def test_every_endpoint_of_a_run_is_asked(config, monkeypatch):
  monkeypatch.setenv("AGENT_KEY", KEY)
  with (
    server.Server(server.telepathy_answer) as of_users,
    server.Server(lambda _: "ok", key=KEY, model="strong") as of_agents,
  ):
    with_endpoint(config, of_users.base_url)
    config.judge = config_lib.Judge(model="large")
    config.evaluation.agent = "endpoint"
    config.agent = config_lib.Agent(
      model="strong", base_url=of_agents.base_url, api_key_env="AGENT_KEY"
    )
    lines = examined(config)
    config.agent.model = "other"
    assert "other" in examined(config)["users"].message
  assert lines["agent key"].message == "AGENT_KEY is set"
  for role, model in (("user", "small"), ("judge", "large")):
    assert lines[role].message.startswith(f"{model} at {of_users.base_url}")
  assert "answered, all 3 in" in lines["agent"].message


def test_a_live_endpoint_is_measured(config, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  with server.Server(server.telepathy_answer, key=KEY) as running:
    with_endpoint(
      config,
      running.base_url,
      usd_per_million_in=1e6,
      usd_per_million_out=0.0,
      profiles=("terse",),
      max_outage_s=600.0,
    )
    lines = examined(config)
    num_asked = len(running.log)
  assert {line.status for line in lines.values()} == {"ok"}
  assert KEY not in str(lines)
  assert lines["user key"].message == "OPENAI_API_KEY is set"
  said = lines["gym telepathy"].message
  num = int(re.search(r"(\d+) requests", said)[1])
  assert num == num_asked - 1 > 0  # the first word is the check's
  # The server tells 7 tokens in and 3 out of each, at a dollar a token in.
  assert f"{7 * num} tokens in, {3 * num} out, ${7 * num}.0" in said
  assert f"100% of {num} replies parsed" in said and "0 leaks" in said
  assert "a terse user" in said
  whole = lines["a whole run"].message
  calls = int(re.match(r"([\d,]+) calls", whole)[1].replace(",", ""))
  assert "of 7 tokens in and 3 out" in whole and f"${7 * calls:,.2f}" in whole


@pytest.mark.parametrize(("seconds", "warns"), [(0.0, True), (600.0, False)])
def test_who_does_not_wait_for_an_endpoint_is_warned(config, seconds, warns):
  config.gyms.names = ("telepathy",)
  with server.Server(server.telepathy_answer) as running:
    url = running.base_url
    lines = examined(with_endpoint(config, url, max_outage_s=seconds))
  assert ("outages" in lines) == warns
  assert not warns or lines["outages"].status == "warn"


def unparsable(messages):
  return "ready" if len(messages) == 1 else "Yes, it is."


def sometimes(messages):
  """Needs to be asked twice for every verdict."""
  return server.telepathy_answer(messages) if len(messages) > 2 else "Well,"


BAD = [
  # (server, config, subject, status, message)
  (dict(script=["401"]), {}, "users", "fail", "check the key"),
  (dict(model="other"), {}, "users", "fail", "user.base_url"),
  (dict(answer=unparsable), {}, "gym telepathy", "fail", "user.structured"),
  (dict(answer=sometimes), {}, "gym telepathy", "warn", "50% of"),
  (dict(script=["", "error"]), {}, "gym telepathy", "fail", "endpoint's own"),
  ({}, {"budget.max_calls": 30}, "a whole run", "warn", "may end it sooner"),
]


@pytest.mark.parametrize(
  ("serving", "changes", "subject", "status", "says"), BAD
)
def test_what_is_wrong_is_said(config, serving, changes, subject, status, says):
  answer = serving.get("answer", server.telepathy_answer)
  options = {k: v for k, v in serving.items() if k != "answer"}
  config.rollout.num_retries = 0
  if "budget.max_calls" in changes:
    config.budget.max_calls = changes["budget.max_calls"]
  with server.Server(answer, **options) as running:
    lines = examined(with_endpoint(config, running.base_url))
  assert lines[subject].status == status
  assert says in lines[subject].message


def test_folders_and_keys_that_are_missing(config, tmp_path):
  config.tokenizer = config_lib.Tokenizer("huggingface", str(tmp_path / "no"))
  config.gyms.tasks = str(tmp_path / "nowhere")
  with_endpoint(config, "https://models.example.com/v1")
  lines = examined(config)
  for subject in ("gyms.tasks", "tokenizer.folder", "tokenizer", "users"):
    assert lines[subject].status == "fail", subject
  assert "OPENAI_API_KEY" in lines["users"].message


def test_a_run_in_the_folder_and_exit_codes(config, tmp_path, capsys):
  folder = tmp_path / "run" / "evaluations"
  folder.mkdir(parents=True)
  assert examined(config)["out_dir"].status == "warn"
  recipe = tmp_path / "recipe.py"
  recipe.write_text(
    "from userrl_jax import config\n"
    "def get_config():\n"
    "  c = config.Config(out_dir='runs/none')\n"
    "  c.gyms.tasks = 'nowhere'\n"
    "  return c\n"
  )
  with pytest.raises(SystemExit) as stopped:
    flags.run(doctor.main, [f"--config={recipe}"])
  assert stopped.value.code == 1
  assert re.search("^fail gyms.tasks: must be", capsys.readouterr().out, re.M)
  with pytest.raises(SystemExit) as stopped:
    flags.run(doctor.main, [f"--config={recipe}", "--config.user.kind=x"])
  assert stopped.value.code == 2
  assert "user.kind must be one of" in capsys.readouterr().err
