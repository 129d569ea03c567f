"""The page of a made-up run: all its numbers, no network, no hostile markup."""

import dataclasses
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from userrl_jax import config
from userrl_jax import config_fields
from userrl_jax import diagnostics
from userrl_jax import metrics
from userrl_jax import report
from userrl_jax import scorecard
from userrl_jax import statistics
from userrl_jax import types

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror='alert(2)'>\"'"
SCORES = {"base": 0.1, "cold_start": 0.4, "grpo": 0.75}
NUM_TASKS = 24


def make_trajectory(stage, number, gym="function") -> types.Trajectory:
  reward = float(number < SCORES[stage] * NUM_TASKS)
  timeout = stage == "grpo" and number == NUM_TASKS - 1
  turns = [
    types.Turn(
      f"{HOSTILE} agent {stage} {number}",
      types.Action("action", f"1 2 3 {number}"),
      f"observation {number} {HOSTILE}",
      0.0,
      info={"outcome": "probe"},
    ),
    types.Turn(
      "broken", None, "Format: call the tool", 0.0, types.Fault.AGENT_MALFORMED
    ),
    types.Turn("last", types.Action("answer", "7"), "Right.", reward),
  ]
  turn_ids = np.array([-1, -1, 0, 0, -1, 1, -1, 2, 2, 2], np.int32)
  return types.Trajectory(
    task=types.Task(
      gym, f"t{number}", "test", 1, "linear", {}, types.Secret({"rule": "a"})
    ),
    member=0,
    iteration=number,
    token_ids_T=np.arange(10, dtype=np.int32),
    logprobs_T=np.where(turn_ids >= 0, -0.25, 0).astype(np.float32),
    turn_ids_T=turn_ids,
    turns=tuple(turns),
    stop_reason=(
      types.StopReason.FAULT if timeout else types.StopReason.TERMINATED
    ),
    fault=types.Fault.USER_TIMEOUT if timeout else types.Fault.OK,
    prompt="Find the function. " + HOSTILE,
  )


def make_run(folder: pathlib.Path) -> pathlib.Path:
  """Writes a run's files with the package's own writers."""
  stages = tuple(SCORES)
  rng = np.random.default_rng(0)
  with metrics.Writers(folder, stages) as writers:
    for stage in stages:
      for step in range(40):
        numbers = {
          "train/loss": 2.0 / (step + 1),
          "train/grad_norm": float(rng.random()),
          "engine/programs": 7,
        }
        if stage == "grpo":
          group = types.Group(
            make_trajectory(stage, 0).task,
            [
              make_trajectory(stage, n) for n in rng.integers(NUM_TASKS, size=4)
            ],
          )
          numbers |= metrics.summarize_groups([group])
          numbers |= {
            "train/entropy": float(1 + rng.random()),
            "rollout/logprob_gap": 3e-6 * float(rng.random()),
          }
          writers.write_transcripts(stage, step, group.trajectories[:1])
        writers.write(stage, step, numbers, time_s=60.0 * step)
    fallen = diagnostics.Finding("collapse", f"the score fell {HOSTILE}")
    writers.write_findings("grpo", 39, [fallen])
  for stage in stages:
    trajectories = [make_trajectory(stage, n) for n in range(NUM_TASKS)]
    summary = scorecard.evaluation_summary(trajectories, stage, 1.0, seed=0)
    (folder / "evaluations").mkdir(exist_ok=True)
    (folder / "evaluations" / f"{stage}.json").write_text(json.dumps(summary))
    path = folder / "transcripts" / f"evaluation_{stage}.jsonl"
    records = [metrics.trajectory_record(t) for t in trajectories]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
  run_config = config.Config(seed=3)
  run_config.grpo.group_size = 33
  values = dataclasses.asdict(run_config)
  (folder / "config.json").write_text(json.dumps(values))
  (folder / "environment.json").write_text(
    json.dumps(
      {
        "command": "python -m userrl_jax.train --config.grpo.group_size=33",
        "differences": {"grpo.group_size": [8, 33]},
        "device": "cpu " + HOSTILE,
        "versions": {"jax": "0.10.2"},
      }
    )
  )
  return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
  return report.write(make_run(tmp_path_factory.mktemp("run"))).read_text()


class Reader(html.parser.HTMLParser):
  """Collects the elements and the text of a page."""

  def __init__(self, text: str):
    super().__init__()
    self.elements: list[tuple[str, dict[str, str | None]]] = []
    self.words: list[str] = []
    self.open: list[str] = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in ("meta", "line", "circle", "path", "br", "input", "img"):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open and self.open[-1] == tag, f"{tag} closes {self.open[-3:]}"
    self.open.pop()

  def handle_data(self, data):
    if self.open and self.open[-1] not in ("script", "style"):
      self.words.append(data)


def test_is_well_formed(page):
  assert Reader(page).open == []


def test_asks_nothing_of_a_network(page):
  # Addresses in the table of settings are text.
  assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
  assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page)
  for tag, attributes in Reader(page).elements:
    assert tag not in ("img", "link", "iframe", "object", "embed", "base")
    assert "src" not in attributes
    assert attributes.get("href", "#").startswith("#")
  assert "default-src 'none'" in page


def test_hostile_text_is_only_text(page):
  elements = Reader(page).elements
  assert sum(tag == "script" for tag, _ in elements) == 1
  assert not any(
    name.startswith("on") for _, attributes in elements for name in attributes
  )
  assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
  assert HOSTILE in "".join(Reader(page).words)


def test_policy_allows_just_the_script_that_is_there(page):
  script = re.search(r"<script>(.*?)</script>", page, re.DOTALL).group(1)
  assert len(script) > 500
  policy = re.search(r'Security-Policy" content="([^"]*)"', page).group(1)
  assert report._csp_hash(script) in policy.replace("&#43;", "+")


def test_what_went_wrong_is_on_the_page(page):
  (part,) = re.findall(r'<div [^>]*id="findings">.*?</div>', page, re.DOTALL)
  words = " ".join(" ".join(Reader(part).words).split())
  assert "grpo after step 39: collapse: the score fell" in words


def _scores(page):
  """Returns the part of a page that is about scores and their differences."""
  return page.split('<section id="measures">')[0]


def test_table_by_stage_has_the_numbers(page):
  rows = re.findall(r"<tr>.*?</tr>", _scores(page), re.DOTALL)
  texts = [" ".join(" ".join(Reader(row).words).split()) for row in rows]
  base = statistics.bootstrap_mean(
    {f"t{n}": [float(n < 0.1 * NUM_TASKS)] for n in range(NUM_TASKS)}, seed=0
  )
  (row,) = [t for t in texts if t.startswith("base function")]
  assert f"{base.mean:.3f}" in row
  assert f"{base.low:.3f} to {base.high:.3f}" in row
  assert re.search(r"\b12%", row) and "3.00" in row and str(NUM_TASKS) in row


def test_paired_differences_are_to_the_stage_before(page):
  rows = re.findall(
    r"<tr><td><span class=\"chip\".*?</tr>", _scores(page), re.DOTALL
  )
  texts = [" ".join(" ".join(Reader(row).words).split()) for row in rows]
  sides = [
    {f"t{n}": [float(n < share * NUM_TASKS)] for n in range(NUM_TASKS - 1)}
    for share in (0.4, 0.75)
  ]
  difference = statistics.paired_macro_difference(
    [tuple({"function": side} for side in sides)], seed=3
  )
  (row,) = [t for t in texts if t.startswith("cold_start grpo")]
  assert f"{difference.mean:+.3f}" in row
  assert f"{difference.low:+.3f} to {difference.high:+.3f}" in row
  assert row.endswith("above") and str(NUM_TASKS - 1) in row
  assert any(t.startswith("base cold_start") for t in texts)
  assert any(t.startswith("base grpo") for t in texts)


def test_curves_have_names_axes_and_all_points(page):
  for name in (
    "reward/function",
    "entropy (train/entropy)",
    "gradient norm (train/grad_norm)",
    "logprob gap (rollout/logprob_gap)",
    "turns (episode/turns)",
    "invalid share (episode/invalid_share)",
    "engine/programs",
  ):
    assert f"<figcaption>{name}</figcaption>" in page
  loss = re.search(r"<figcaption>loss .*?</figure>", page, re.DOTALL).group(0)
  assert loss.count("<path class='curve'") == 3
  assert loss.count("<title>") == 3 * 40
  assert "grpo 39: 0.05<" in loss
  assert ">39<" in loss and "step of the stage" in loss


def test_fault_ledger_counts(page):
  row = re.search(r"<tr><td>user_timeout</td>.*?</tr>", page, re.DOTALL).group(
    0
  )
  numbers = re.findall(r"<td class=\"n[^>]*>(\d+)</td>", row)
  assert numbers[-1] == "1" and numbers[-2] == "0"
  row = re.search(r"<tr><td>agent_malformed</td>.*?</tr>", page, re.DOTALL)
  numbers = re.findall(r"<td class=\"n[^>]*>(\d+)</td>", row.group(0))
  assert numbers[-1] == str(NUM_TASKS)


def test_config_command_and_privacy(page):
  assert "--config.grpo.group_size=33" in page
  assert 'grpo.group_size</code></td><td class="wrap"><code>8</code>' in page
  assert "Differs from the recipe" in page and "the defaults" in page
  assert "0.10.2" in page


def test_dialogues_show_the_same_task_at_each_stage(page):
  tasks = re.findall(
    r"<details class=\"task.*?(?=<details class=\"task|<h3>)", page, re.DOTALL
  )
  assert len(tasks) == NUM_TASKS
  third = tasks[2]
  words = "".join(Reader(third).words)
  assert "function / t2" in words
  for stage in SCORES:
    assert f"agent {stage} 2" in words
  assert "observation 2" in words and "1 2 3 2" in words
  assert "agent_malformed" in words and "mean logprob -0.25" in words
  attributes = next(a for t, a in Reader(third).elements if t == "details")
  assert json.loads(attributes["data-scores"]) == {
    "base": 1.0,
    "cold_start": 1.0,
    "grpo": 1.0,
  }
  assert '"grpo": null' in tasks[-1].replace("&#34;", '"')


@pytest.mark.parametrize(
  "gone",
  [
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "evaluations/cold_start.json",
    "transcripts/evaluation_grpo.jsonl",
  ],
)
def test_a_missing_part_is_said_to_be_missing(tmp_path, gone):
  folder = make_run(tmp_path)
  (folder / gone).unlink()
  text = report.write(folder).read_text()
  assert f"{gone.split('/')[-1]} is not there" in text


def test_broken_parts_are_named_and_the_rest_is_shown(tmp_path):
  folder = make_run(tmp_path)
  (folder / "config.json").write_text("[1")
  (folder / "evaluations" / "base.json").write_text('{"stage": "base"}')
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('{"stage": "grpo", "step": 40, "train/loss": NaN}\n{"cut')
  text = report.write(folder).read_text()
  for name in ("config.json", "evaluations/base.json"):
    assert f"{name} cannot be read" in text
  assert "metrics.jsonl: lines [122]" in text
  assert "cold_start" in text


def test_an_empty_folder_gives_a_page(tmp_path):
  text = report.write(tmp_path).read_text()
  assert Reader(text).open == []
  assert "No evaluation is there" in text and "No metrics are there" in text


def test_a_comparison_of_gyms_and_arms_reads_well(tmp_path):
  arms = ["continued_updates", "continued", "rl_only_updates", "rl_only"]
  stages = ["base", "cold_start", *arms, "grpo"]
  gyms, splits, num_tasks = ("function", "travel", "zoo"), ("fresh", "test"), 60
  (tmp_path / "evaluations").mkdir()
  (tmp_path / "transcripts").mkdir()
  for stage in stages:
    played = [
      dataclasses.replace(
        t, task=dataclasses.replace(t.task, split=s, id=f"{s}-{t.task.id}")
      )
      for gym in gyms
      for s in splits
      for n in range(num_tasks)
      for t in [make_trajectory("base", n, gym)]
    ]
    summary = scorecard.evaluation_summary(played, stage, 1.0, seed=0)
    path = tmp_path / "evaluations" / f"{stage}.json"
    path.write_text(json.dumps(summary))
    path = tmp_path / "transcripts" / f"evaluation_{stage}.jsonl"
    records = [metrics.trajectory_record(t) for t in played]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
  settings = config.Config(stages=tuple(stages))
  path = tmp_path / "config.json"
  path.write_text(json.dumps(config_fields.to_dict(settings)))
  text = report.write(tmp_path).read_text()
  rows = re.findall(
    r"<tr><td><span class=\"chip\".*?</tr>", _scores(text), re.DOTALL
  )
  words = [" ".join(" ".join(Reader(row).words).split()) for row in rows]
  means = [row.split(" mean of gyms")[0] for row in words if "mean" in row]
  order = ["base", "cold_start", "grpo", *arms]
  assert means[: len(order)] == order
  assert means[len(order) :] == [
    "base cold_start",
    "cold_start grpo",
    "base grpo",
    *(f"{arm} grpo" for arm in arms),
  ]
  colours = set(re.findall(r"--c:var\((--stage-\d+)\)", text))
  assert len(colours) == len(stages)
  assert {text.count(f"{c}: #") for c in colours} == {2}  # light and dark
  for what in ("Score with", "Difference on the same tasks with"):
    titles = re.findall(f"<figcaption>{what} 95% interval: (.*?)<", text)
    assert titles == ["mean of gyms", *gyms]
  # Dialogues take turns over gyms and splits before they are cut.
  shown = re.findall(r"data-gym=\"(\w+)\" data-split=\"(\w+)\"", text)
  parts = [(gym, split) for gym in gyms for split in splits]
  assert len(shown) == report.MAX_TASKS and shown[:7] == [*parts, parts[0]]
  assert {shown.count(part) for part in parts} == {33, 34}
  assert "34 of 60 function fresh" in text and "33 of 60 zoo test" in text


def test_held_out_gyms_have_rows_and_differences_of_their_own(tmp_path):
  gyms, names = ("function", "tau", "travel", "zoo"), ("tau", "zoo")
  (tmp_path / "evaluations").mkdir()
  for stage in ("base", "cold_start"):
    played = [make_trajectory("base", n, gym) for gym in gyms for n in range(6)]
    summary = scorecard.evaluation_summary(
      played, stage, 1.0, seed=0, held_out_gyms=names
    )
    path = tmp_path / "evaluations" / f"{stage}.json"
    path.write_text(json.dumps(summary))
  text = report.write(tmp_path).read_text()
  rows = re.findall(
    r"<tr><td><span class=\"chip\".*?</tr>", _scores(text), re.DOTALL
  )
  words = [" ".join(" ".join(Reader(row).words).split()) for row in rows]
  order = [
    *("function", "travel", "mean of gyms"),
    *("tau (held out)", "zoo (held out)", "mean of held-out gyms"),
  ]
  of_base, of_cold_start = words[:6], words[6:12]
  for row, what in zip(of_base + of_cold_start, order * 2, strict=True):
    assert re.sub("^(base|cold_start) ", "", row).startswith(what)
  means_first = [order[2], *order[:2], order[5], *order[3:5]]
  for row, what in zip(words[12:], means_first, strict=True):
    assert row.startswith(f"base cold_start {what} +0.000")
  for what in ("Score with", "Difference on the same tasks with"):
    titles = re.findall(f"<figcaption>{what} 95% interval: (.*?)<", text)
    assert titles == means_first
  assert "Held-out gyms are never trained on" in text
  # One of the four is none of the paper's.
  assert "mean of all gyms" in text and "weighted mean of all" not in text


def test_a_resumed_run_tells_its_time_and_code(tmp_path):
  with metrics.Writers(tmp_path, ["grpo"]) as writers:
    for step, time_s in enumerate((60.0, 10.0)):
      writers.write("grpo", step, {"time/step_s": 90.0}, time_s)
  environment = {"git": {"commit": "abc", "changed": False}}
  environment["resumed"] = [{"commit": "def", "changed": True}]
  (tmp_path / "environment.json").write_text(json.dumps(environment))
  words = " ".join(Reader(report.write(tmp_path).read_text()).words)
  words = " ".join(words.split())
  assert "time of training 3.0 minutes" in words and "times resumed 1" in words
  assert 'commits, one after the other ["abc", "def"]' in words


def test_command(tmp_path, capsys):
  folder = make_run(tmp_path)
  assert report.main([str(folder)]) == 0
  assert capsys.readouterr().out.strip() == str(folder / "report.html")
  done = subprocess.run(
    [sys.executable, "-m", "userrl_jax.report", str(tmp_path / "nowhere")],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(report.__file__).parents[1],
  )
  assert done.returncode == 2
  assert done.stderr.startswith("error: RUN_DIR must be the folder of a run")
  assert "Traceback" not in done.stderr
