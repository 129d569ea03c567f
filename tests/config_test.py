"""Tests of the config: types, rules and round trips."""

import ast
import dataclasses
import functools
import itertools
import json

import pytest

from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import config_rules
from userrl_jax import experiments
from userrl_jax import flags


def _set(path, value):
  """Returns the default config with one field set."""
  config = config_lib.Config()
  *sections, name = path.split(".")
  section = config
  for part in sections:
    section = getattr(section, part)
  setattr(section, name, value)
  return config


def _problems(config):
  """Returns the lines of validate's message; none when it is content."""
  try:
    config_rules.validate(config)
  except ValueError as error:
    return str(error).splitlines()
  return []


def test_defaults_are_valid():
  assert _problems(config_lib.Config()) == []


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    ("seed", "0", "seed must be int, got '0' (str)"),
    ("seed", True, "seed must be int, got True (bool)"),
    ("seed", 1.0, "seed must be int, got 1.0 (float)"),
    ("chat.show_reward", 1, "chat.show_reward must be bool, got 1 (int)"),
    (
      "rollout.temperature",
      True,
      "rollout.temperature must be float, got True (bool)",
    ),
    (
      "gyms.names",
      ["function"],
      "gyms.names must be tuple[str, ...], got ['function'] (list)",
    ),
    (
      "gyms.levels",
      (1, "2"),
      "gyms.levels must be tuple[int, ...], got (1, '2') (tuple)",
    ),
    ("grpo.credit", {}, "grpo.credit must be Credit, got {} (dict)"),
    (
      "grpo.optimizer.b1",
      None,
      "grpo.optimizer.b1 must be float, got None (NoneType)",
    ),
    (
      "grpo.group_sise",
      4,
      "there is no config field grpo.group_sise; "
      "the nearest is grpo.group_size",
    ),
  ],
)
def test_wrong_types_are_one_line(path, value, message):
  assert _problems(_set(path, value)) == [message]


def test_a_whole_number_is_a_float():
  assert _problems(_set("rollout.temperature", 1)) == []


@pytest.mark.parametrize(
  ("path", "value", "rule"),
  [
    ("chat.profile", "short", "one of full, brief"),
    ("model.dtype", "float16", "one of float32, bfloat16"),
    ("model.remat", "some", "one of none, full"),
    ("tokenizer.kind", "bpe", "one of sentencepiece, huggingface"),
    (
      "gyms.reward_profile",
      "mine",
      "one of default, paper, released_train, released_eval",
    ),
    ("grpo.credit.score", "max", "one of mean, sum, r2g"),
    (
      "grpo.credit.credit",
      "x",
      "one of equalized, naive, r2g, em, information, predicted",
    ),
    ("grpo.credit.normalize", "mad", "one of std, std_n, none, leave_one_out"),
    ("grpo.credit.spread", "even", "one of scaled, signed, printed"),
    ("grpo.loss", "reinforce", "one of ppo, gspo, cispo, plain"),
    ("grpo.importance_cap", 0.5, "0, or at least 1"),
    ("base.optimizer.schedule", "linear", "one of constant, cosine"),
    ("out_dir", "", "given"),
    ("gyms.tasks", "", "given"),
    ("seed", -1, "0 or more"),
    ("packing.row_length", 0, "positive"),
    ("rollout.temperature", 0.0, "positive"),
    ("rollout.temperature", float("inf"), "positive"),
    ("grpo.clip_high", float("nan"), "positive"),
    ("rollout.max_invalid_share", 1.1, "in [0, 1]"),
    ("grpo.credit.gamma", -0.1, "in [0, 1]"),
    ("grpo.optimizer.b2", 1.0, "in [0, 1)"),
    ("grpo.clip_low", 1.0, "in [0, 1)"),
    ("grpo.dual_clip", 1.0, "above 1"),
    ("mesh.tensor", -2, "positive, or -1"),
    ("mesh.tensor", 0, "positive, or -1"),
  ],
)
def test_wrong_values_are_one_line(path, value, rule):
  assert _problems(_set(path, value)) == [
    f"{path} must be {rule}, got {value!r}"
  ]


@pytest.mark.parametrize(
  ("path", "value", "got"),
  [
    ("stages", ("base", "sleep"), "'sleep'"),
    ("evaluation.splits", ("test", "eval"), "'eval'"),
    ("gyms.levels", (1, 4), "4"),
  ],
)
def test_a_tuple_names_its_wrong_element(path, value, got):
  (problem,) = _problems(_set(path, value))
  assert problem.startswith(f"{path} must be one of")
  assert problem.endswith(f"got {got}")


@pytest.mark.parametrize("value", [(), ("base", "base")])
def test_a_tuple_holds_values_none_twice(value):
  (problem,) = _problems(_set("stages", value))
  assert problem == f"stages must hold values, none twice, got {value}"


@pytest.mark.parametrize(
  ("path", "value", "last_right"),
  [
    ("packing.row_length", 511, 512),
    ("rollout.max_tokens_per_turn", 512, 511),
    ("engine.num_lanes", 129, 128),
    ("grpo.group_size", 1, 2),
    ("grpo.tasks_per_iteration", 513, 512),
    ("evaluation.num_tasks", 129, 128),
    ("cold_start.top_k", 3, 2),
    ("cold_start.optimizer.warmup_steps", 200, 199),
    ("mesh.fsdp", -1, 1),
    ("stages", ("grpo", "base"), ("base", "grpo")),
  ],
)
def test_impossible_mixes_are_refused_at_their_border(path, value, last_right):
  (problem,) = _problems(_set(path, value))
  named = "mesh.data" if path == "mesh.fsdp" else path
  assert problem.startswith(f"{named} must be ")
  assert _problems(_set(path, last_right)) == []


@pytest.mark.parametrize(
  ("changes", "field", "mended"),
  [
    (
      {"credit.spread": "printed"},
      "credit.normalize",
      {"credit.normalize": "std_n"},
    ),
    (
      {"credit.released": True, "credit.normalize": "leave_one_out"},
      "credit.normalize",
      {"credit.released": False},
    ),
    (
      {"credit.released": True, "credit.spread": "signed"},
      "credit.spread",
      {"credit.released": False},
    ),
    (
      {"credit.gym_scales": ("travel=2",)},
      "credit.gym_scales",
      {"credit.gym_scales": ("function=2",)},
    ),
    (
      {"credit.gym_scales": ("function",)},
      "credit.gym_scales",
      {"credit.gym_scales": ()},
    ),
    (
      {"credit.gym_scales": ("function=2", "function=3")},
      "credit.gym_scales",
      {"credit.gym_scales": ("function=0.5",)},
    ),
    ({"credit.hold_until": 9}, "credit.hold_until", {"credit.hold_until": 6}),
    (
      {"credit.free_tokens": 9},
      "credit.free_tokens",
      {"credit.length_penalty": 0.1},
    ),
    ({"num_mini_batches": 3}, "num_mini_batches", {"num_mini_batches": 4}),
    (
      {"loss": "plain", "num_mini_batches": 2},
      "num_mini_batches",
      {"loss": "cispo"},
    ),
    ({"loss": "plain", "clip_low": 0.1}, "clip_low", {"loss": "cispo"}),
    ({"loss": "plain", "clip_high": 0.1}, "clip_high", {"loss": "ppo"}),
    ({"loss": "cispo", "dual_clip": 2.0}, "dual_clip", {"loss": "gspo"}),
    ({"loss_length": 9}, "loss_length", {"aggregation": "constant_length"}),
    ({"kl_estimator": "k1"}, "kl_estimator", {"kl_coef": 0.1}),
    ({"refill_rounds": 1}, "refill_rounds", {"flat_groups": "refill"}),
  ],
)
def test_methods_that_exclude_each_other_are_refused(changes, field, mended):
  def put(config, values):
    for path, value in values.items():
      *sections, name = path.split(".")
      setattr(functools.reduce(getattr, sections, config.grpo), name, value)

  config = config_lib.Config()
  put(config, changes)
  (problem,) = _problems(config)
  assert problem.startswith(f"grpo.{field} must be ")
  put(config, mended)
  assert _problems(config) == []


def test_information_needs_a_gym_that_counts_it():
  config = _set("grpo.credit.credit", "information")
  assert _problems(config) == []
  config.gyms.names = ("travel", "turtle")
  (problem,) = _problems(config)
  assert problem.startswith("grpo.credit.credit must be other than information")
  config.gyms.names = ("travel", "telepathy")
  assert _problems(config) == []


def test_rules_can_be_persuaded_at_the_limit_of_a_turn():
  config = _set("gyms.persuade.max_gain", 1)
  assert _problems(config) == []  # nobody plays it
  config.evaluation.held_out_gyms = ("persuade",)
  (problem,) = _problems(config)
  assert problem.startswith("gyms.persuade.max_gain must be 0, or at least 2,")
  config.user.kind, config.user.model = "endpoint", "m"
  config.user.base_url = "http://localhost:1/v1"
  assert _problems(config) == []
  config.user = config_lib.User()
  config.gyms.persuade.max_gain = 0
  assert _problems(config) == []


def test_old_samples_need_a_method_that_knows_them():
  config = _set("rollout.max_staleness", 1)
  config.grpo.loss = "plain"
  (problem,) = _problems(config)
  assert problem.startswith("rollout.max_staleness must be 0 with grpo.loss")
  config.grpo.importance_cap = 2.0
  assert _problems(config) == []
  config.grpo = config_lib.Grpo(flat_groups="refill")
  (problem,) = _problems(config)
  assert "too late to be played ahead" in problem


def test_a_warm_up_counts_optimizer_steps():
  config = _set("grpo.num_mini_batches", 2)
  config.grpo.optimizer.schedule = "cosine"
  config.grpo.optimizer.warmup_steps = 59
  assert _problems(config) == []
  config.grpo.optimizer.warmup_steps = 60
  (problem,) = _problems(config)
  assert "below the 60 steps" in problem


def test_the_real_tokenizer_needs_a_folder():
  config = _set("tokenizer.kind", "huggingface")
  (problem,) = _problems(config)
  assert problem.startswith("tokenizer.folder must be a folder")
  config.tokenizer.folder = "somewhere"
  assert _problems(config) == []


def test_published_weights_decide_depth_and_need_their_tokenizer():
  config = _set("model.preset", "")
  (problem,) = _problems(config)
  assert problem.startswith("model.preset must be given, unless model.folder")
  config.model.folder = "published"
  (problem,) = _problems(config)
  assert problem.startswith("tokenizer.folder must be given with model.folder")
  config.init_from = "a folder"
  assert _problems(config) == []
  config.init_from, config.tokenizer.folder = "", "published"
  assert _problems(config) == []
  config.model.num_layers = 2
  (problem,) = _problems(config)
  assert problem.startswith("model.num_layers must be 0 with model.folder")


def test_a_group_of_one_is_for_the_released_code_or_no_grpo():
  config = _set("grpo.group_size", 1)
  config.grpo.credit.released = True
  assert _problems(config) == []
  for policy in ("drop", "refill"):  # it would drop all and learn nothing
    config.grpo.flat_groups = policy
    (problem,) = _problems(config)
    assert problem.startswith("grpo.flat_groups must be keep with grpo.group_")
  config.grpo.flat_groups = "keep"
  config.grpo.credit.released = False
  config.stages = ("base",)
  assert _problems(config) == []


ALL_STAGES = config_rules._NAMES["Config.stages"]


@pytest.mark.parametrize(
  ("stages", "changes", "field"),
  [
    (ALL_STAGES, {}, None),
    (("base", "continued"), {}, "stages"),
    (("base", "grpo", "continued_updates"), {}, "stages"),
    (("base", "grpo", "rl_only"), {}, "stages"),
    (("cold_start", "grpo", "rl_only"), {}, "stages"),
    (("cold_start", "grpo", "rl_only_updates"), {}, "stages"),
    (ALL_STAGES, {"rollout.max_staleness": 1}, None),
    (
      ("base", "cold_start", "rl_only_updates"),
      {"grpo.group_size": 1},
      "grpo.group_size",
    ),
    (("cold_start", "grpo", "rl_only"), {"init_from": "a folder"}, None),
    (
      ("cold_start", "grpo", "rl_only"),
      {"model.folder": "published", "tokenizer.folder": "published"},
      None,
    ),
    (ALL_STAGES, {"comparison.continued_steps": 30}, None),
    (
      ALL_STAGES,
      {"comparison.continued_steps": 29},
      "comparison.continued_steps",
    ),
    (
      ALL_STAGES,
      {"comparison.rl_only_iterations": 29},
      "comparison.rl_only_iterations",
    ),
    # Of stages that do not run, nothing is asked.
    (
      ALL_STAGES[:4],
      {"comparison.continued_steps": 1, "comparison.rl_only_iterations": 1},
      None,
    ),
    (("grpo",), {"cold_start.num_steps": 5}, None),
    (
      ALL_STAGES,
      {"grpo.optimizer.schedule": "cosine", "grpo.optimizer.warmup_steps": 29},
      None,
    ),
    (
      ("base", "cold_start", "rl_only"),
      {"grpo.optimizer.schedule": "cosine", "grpo.optimizer.warmup_steps": 60},
      "grpo.optimizer.warmup_steps",
    ),
    (
      ("base", "cold_start", "rl_only_updates"),
      {"grpo.optimizer.schedule": "cosine", "grpo.optimizer.warmup_steps": 30},
      "grpo.optimizer.warmup_steps",
    ),
  ],
)
def test_arms_have_what_they_are_compared_by(stages, changes, field):
  config = _set("stages", stages)
  for path, value in changes.items():
    *sections, name = path.split(".")
    setattr(functools.reduce(getattr, sections, config), name, value)
  problems = _problems(config)
  assert len(problems) == (field is not None)
  assert all(line.startswith(f"{field} must be ") for line in problems)


ENDPOINT = {"user.kind": "endpoint", "user.model": "m"}
JUDGED = {  # by a model that costs nothing as far as the config says
  "budget.max_usd": 1.0,
  "user.usd_per_million_out": 1.0,
  "judge.model": "big",
}
AGENT = {
  "evaluation.agent": "endpoint",
  "agent.model": "m",
  "budget.max_usd": 1.0,
}
RECORDED = {"recording.mode": "record", "recording.file": "answers.sqlite"}


@pytest.mark.parametrize(
  ("changes", "field"),
  [
    (ENDPOINT | RECORDED | {"budget.max_calls": 9}, None),
    (RECORDED, "recording.mode"),
    (ENDPOINT | {"recording.mode": "replay"}, "recording.file"),
    (ENDPOINT | {"recording.file": "x"}, "recording.file"),
    ({"budget.max_calls": 9}, "budget.max_calls"),
    ({"user.requests_per_minute": 9}, "user.requests_per_minute"),
    ({"user.structured": True}, "user.structured"),
    (ENDPOINT | {"budget.max_usd": 1.0}, "budget.max_usd"),
    (
      ENDPOINT | {"budget.max_usd": 1.0, "user.usd_per_million_out": 1.0},
      None,
    ),
    (ENDPOINT | JUDGED, "budget.max_usd"),
    (ENDPOINT | JUDGED | {"judge.usd_per_million_in": 1e-9}, None),
    (AGENT | {"user.usd_per_million_in": 1.0}, "budget.max_usd"),
    (AGENT | {"agent.usd_per_million_in": 1.0}, None),
    (ENDPOINT | {"judge.model": "big", "judge.temperature": 1.0}, None),
    (ENDPOINT | {"judge.temperature": 1.0}, "judge.temperature"),
    ({"judge.model": "big"}, "judge.model"),
    (ENDPOINT | {"user.timeout_s": 60.0}, None),
    (
      ENDPOINT | {"user.timeout_s": 60.0, "user.max_outage_s": 9.0},
      "user.timeout_s",
    ),
  ],
)
def test_only_an_endpoint_has_limits_costs_and_recordings(changes, field):
  config = config_lib.Config()
  for path, value in changes.items():
    *sections, name = path.split(".")
    setattr(functools.reduce(getattr, sections, config), name, value)
  problems = _problems(config)
  assert len(problems) == (field is not None)
  assert all(line.startswith(f"{field} must be ") for line in problems)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ((), None),
    (("search", "tau"), None),
    (("search", "search"), "must hold values, none twice"),
    (("search", "function"), "must be some of intention, persuade, "),
    (("chess",), "known gyms that are not in gyms.names, got ('chess',)"),
    (("",), "known gyms that are not in gyms.names, got ('',)"),
  ],
)
def test_held_out_gyms_are_known_and_not_trained(names, message):
  problems = _problems(_set("evaluation.held_out_gyms", names))
  assert len(problems) == (message is not None)
  for problem in problems:
    assert problem.startswith("evaluation.held_out_gyms ")
    assert message in problem


def test_all_problems_are_listed():
  config = _set("grpo.group_size", 1)
  config.engine.num_lanes = 500
  assert len(_problems(config)) == 2


def test_dict_and_back_through_json():
  config = _set("gyms.levels", (1, 3))
  config.grpo.optimizer.learning_rate = 1 / 3
  text = json.dumps(config_fields.to_dict(config))
  assert config_fields.from_dict(json.loads(text)) == config


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda d: d["grpo"].update(group_sise=1), "no config field grpo.group_s"),
    (lambda d: d["grpo"].pop("clip_low"), "grpo.clip_low must be given"),
    (lambda d: d.update(seed="0"), "seed must be int"),
    (lambda d: d.update(grpo=[]), "grpo must be a section"),
    (lambda d: d["gyms"].update(levels=["1"]), "gyms.levels must be tuple"),
  ],
)
def test_from_dict_refuses_what_to_dict_never_makes(change, message):
  values = config_fields.to_dict(config_lib.Config())
  change(values)
  with pytest.raises(ValueError, match=message):
    config_fields.from_dict(values)


def test_differences_are_the_changed_fields_only():
  config = _set("grpo.credit.gamma", 0.5)
  config.stages = ("grpo",)
  assert config_fields.differences(config, config_lib.Config()) == {
    "grpo.credit.gamma": (0.8, 0.5),
    "stages": (("base", "cold_start", "grpo"), ("grpo",)),
  }


@pytest.mark.parametrize(
  ("path", "nearest"),
  [
    ("grpo.group_sze", "grpo.group_size"),
    ("gamma", "grpo.credit.gamma"),  # the right name in no section
    ("grpo.learning_rate", "grpo.optimizer.learning_rate"),
    ("rollout.num_lanes", "engine.num_lanes"),  # in the wrong section
  ],
)
def test_an_unknown_field_names_the_nearest(path, nearest):
  expected = f"there is no config field {path}; the nearest is {nearest}"
  assert config_fields.unknown_field(path) == expected


def test_every_rule_names_a_field():
  keys = {knob.key for knob in config_fields.knobs(config_lib.Config())}
  rules = [
    *config_rules._NAMES,
    *config_rules._NUMBERS,
    *config_rules._MAY_BE_EMPTY,
  ]
  assert set(rules) <= keys


EXPERIMENTS = ("cold_start", "credits", "users", "delayed", "efficiency")
EXPERIMENTS += ("paper",)
RECIPES = ("quickstart", "real_input", "all_gyms", "paper_4b", "paper_8b")
RECIPES += ("paper_32b", "profiles", "sizes")
RECIPES += tuple(f"ablations/{name}" for name in EXPERIMENTS)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid_and_open_with_what_to_expect(root, name):
  path = root / "configs" / f"{name}.py"
  experiment = experiments.load(str(path))
  assert (experiment is not None) == name.startswith("ablations/")
  for arm in ("", *(experiment.arms if experiment else ())):
    config = flags.load_recipe(f"{path}:{arm}" if arm else str(path))
    if config.tokenizer.kind == "huggingface":  # folders are given with it
      config.tokenizer.folder = config.gyms.tasks = "a folder"
    assert _problems(config) == []
    assert set(experiment.stages if experiment else ()) <= set(config.stages)
  text = path.read_text()
  for word in ("Command:", "Hardware:", "Time:", "Expect:"):
    assert word in (ast.get_docstring(ast.parse(text)) or "")
  assert len(text.splitlines()) <= 60


def test_every_recipe_is_tested(root):
  paths = (root / "configs").glob("**/*.py")
  recipes = {p.relative_to(root / "configs").with_suffix("") for p in paths}
  assert {path.as_posix() for path in recipes} == set(RECIPES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_arms_differ_in_what_is_asked_about_alone(root, name):
  """And start alike; an arm that equals another is none."""
  path = str(root / "configs" / "ablations" / f"{name}.py")
  arms = experiments.load(path).arms
  configs = [flags.load_recipe(f"{path}:{arm}") for arm in arms]
  grpo = "grpo.credit"
  may = {
    "credits": tuple(f"{grpo}.{x}" for x in ("credit", "score", "spread")),
    "users": ("user.profiles",),
    "delayed": (f"{grpo}.credit", f"{grpo}.score", f"{grpo}.hold_until"),
    "efficiency": (f"{grpo}.turn_penalty",),
    "paper": (f"{grpo}.score", "stages"),
  }.get(name, ())
  for one, other in itertools.combinations(configs, 2):
    changed = config_fields.differences(one, other).keys() - {"out_dir"}
    assert changed and all(field.startswith(may) for field in changed)
    assert one.out_dir != other.out_dir


def test_the_plan_has_the_tests_of_the_recipes_and_no_others(root):
  folder = root / "configs" / "ablations"
  letters = {"b": "cold_start", "a": "credits", "c": "users"}
  letters |= {"d": "delayed", "e": "efficiency"}
  rows = []
  for letter, name in letters.items():
    experiment = experiments.load(str(folder / f"{name}.py"))
    for test in experiment.tests:
      of = test.measure + (f", {test.users} users" if test.users else "")
      asked = test.question + " (primary)" * test.is_primary
      rows.append([letter, asked, test.above, test.below, of])
    assert (
      f"| {letter} | `{name}.py` | {experiment.question} |"
      in (folder / "PLAN.md").read_text()
    )
  section = (folder / "PLAN.md").read_text().partition("## Tests")[2]
  lines = [line for line in section.splitlines() if line.startswith("|")]
  assert [line.strip("| ").split(" | ") for line in lines[2:]] == rows


def test_experiments_start_from_the_cold_starts_of_their_seeds(root):
  folder = root / "configs" / "ablations"
  first = flags.load_recipe(str(folder / "cold_start.py"))
  path = first.out_dir.replace("seed=0", "seed={seed}")
  for name in ("credits", "users", "delayed", "efficiency"):
    argv = [f"--config={folder / name}.py", "--config.seed=3"]
    config, _ = flags.parse(argv)
    assert config.init_from == f"{path}/checkpoints/cold_start".format(seed=3)
    assert config.grpo.num_iterations == first.grpo.num_iterations


def test_recipes_of_the_paper_have_its_settings(root):
  """Table 6 of the paper; its schedule is that of the released code."""
  small, large = (
    flags.load_recipe(str(root / "configs" / f"paper_{size}.py"))
    for size in ("4b", "8b")
  )
  for c, size in ((small, "4b"), (large, "8b")):
    grpo, credit = c.grpo, c.grpo.credit
    assert c.model.preset == f"qwen3_{size}" and size in c.out_dir
    assert (credit.score, credit.credit, credit.gamma) == (
      *("r2g", "equalized", 0.8),
    )
    assert (grpo.optimizer.learning_rate, grpo.kl_coef) == (1e-6, 0)
    assert (grpo.tasks_per_iteration, grpo.group_size) == (128, 8)
    assert grpo.tasks_per_iteration // grpo.num_mini_batches == 16
    assert grpo.num_iterations == 15 * (2426 // 128)
    assert (c.gyms.max_turns, c.rollout.temperature) == (16, 1.0)
    assert c.rollout.max_tokens_per_episode == 1152 + 8192
    assert set(c.gyms.names).isdisjoint(c.evaluation.held_out_gyms)
    assert len(c.gyms.names + c.evaluation.held_out_gyms) == 8
    assert c.cold_start.optimizer.learning_rate == 1e-5
    assert size in c.cold_start.source
  changed = config_fields.differences(large, small)
  assert changed.keys() == {
    *("out_dir", "model.preset", "cold_start.source"),
    *("engine.num_rows", "engine.num_lanes"),
  }


def test_dataclasses_hold_only_types_that_flags_can_set():
  known = {bool, int, float, str, tuple[str, ...], tuple[int, ...]}
  assert set(config_fields.field_types().values()) <= known
  assert dataclasses.is_dataclass(config_lib.Config)
