"""The line of a step, on a terminal and off it."""

import io

import pytest

from userrl_jax import console
from userrl_jax import scorecard


class Terminal(io.StringIO):
  def isatty(self):
    return True


NUMBERS = {
  "score/function": 0.25,
  "score/travel": 0.75,
  "score/macro": 0.5,
  "success/function": 0.2,
  "success/travel": 0.4,
  "train/loss": 0.01234,
  "rollout/logprob_gap_max": 3e-7,
  "episode/turns": 3.14159,
  "speed/tokens_per_s": 1234.4,
  "fault/agent_malformed": 3.0,
  "fault/truncated": 1.0,
  "fault/user_timeout": 2.0,
  "fault/function/user_timeout": 2.0,
  "episode/invalid_share": 2 / 64,
  "user/requests": 96.0,
  "user/retries": 3.0,
  "engine/programs": 7,
  "learner/programs": 2,
  "engine/padding": 0.125,
  "batch/padding": 0.5,
}


def test_the_line_of_a_step():
  file, now = io.StringIO(), iter([0.0, 10.0, 12.0])
  shown = console.Console(file, clock=lambda: next(now))
  for step in range(3):
    shown.show("grpo", step, 40, NUMBERS)
  lines = file.getvalue().splitlines()
  body = (
    "score 0.500 (function 0.25, travel 0.75) success 30% | loss 0.0123 | "
    "logprob gap 3e-07 | turns 3.14 | 1,234 tokens/s | "
    "faults 2, 3.1% of episodes invalid (+4 of the agent) | "
    "user 96 requests (3 again) | programs 9 | "
    "padding engine 12%, batch 50%"
  )
  assert lines == [
    f"grpo 1/40 | {body}",
    f"grpo 2/40 | {body} | eta 6:20",
    f"grpo 3/40 | {body} | eta 3:42",
  ]


def test_says_only_what_it_knows():
  file = io.StringIO()
  console.Console(file).show("base", 0, 1, {"train/loss": 2.0})
  assert file.getvalue() == "base 1/1 | loss 2.0000\n"


@pytest.mark.parametrize(
  ("numbers", "line"),
  [
    ({"score/a": 0.5}, "score 0.500"),
    ({"score/a": 0.5, "fault/a/gym_error": 1}, "score 0.500"),
    ({"score/b": 0.5, "fault/a/gym_error": 1}, "score - (a -, b 0.50)"),
    (
      {"score/a": 0, "score/c": 1, "success/a": 0.5, "fault/b/user_error": 1},
      "score - (a 0.00, b -, c 1.00) success 50%",
    ),
    ({"fault/a/gym_error": 1}, ""),
    (
      {"fault/truncated": 1, "episode/invalid_share": 0},
      "faults 0 (+1 of the agent)",
    ),
  ],
)
def test_a_gym_without_a_valid_episode_is_not_averaged_away(numbers, line):
  file = io.StringIO()
  console.Console(file).show("grpo", 0, 1, numbers)
  assert file.getvalue().strip() == "grpo 1/1" + (f" | {line}" if line else "")


def test_colours_on_a_terminal_only(monkeypatch):
  monkeypatch.setenv("TERM", "xterm-256color")
  monkeypatch.delenv("NO_COLOR", raising=False)
  terminal, pipe = Terminal(), io.StringIO()
  for file in (terminal, pipe):
    console.Console(file).show("grpo", 0, 2, NUMBERS)
  assert "\x1b[" in terminal.getvalue()
  assert "\x1b[" not in pipe.getvalue()


def test_a_stage_starts_its_own_clock():
  file, now = io.StringIO(), iter([0.0, 100.0])
  shown = console.Console(file, clock=lambda: next(now))
  shown.show("base", 0, 2, {})
  shown.show("grpo", 0, 2, {})
  assert "eta" not in file.getvalue()


def test_eta_counts_steps_not_lines():
  file, now = io.StringIO(), iter([0.0, 20.0])
  shown = console.Console(file, clock=lambda: next(now))
  shown.show("base", 9, 100, {})
  shown.show("base", 19, 100, {})  # 2 s a step, 80 to go
  assert file.getvalue().splitlines()[1] == "base 20/100 | eta 2:40"


def test_markup_in_a_text_is_only_text():
  file = io.StringIO()
  console.Console(file).print("[red]a[/red] " + "x" * 300)
  assert file.getvalue() == "[red]a[/red] " + "x" * 300 + "\n"


def test_table_of_evaluations():
  dead = scorecard.GymEvaluation(
    None, None, None, None, 4, 4, None, 4, 0.0, 1.0, {}
  )
  alive = scorecard.GymEvaluation(
    0.5, 0.4, 0.61, 0.33, 10, 20, 2.5, 1, 0.45, 0.55, {}
  )
  summary = scorecard.Evaluation(
    "grpo",
    1.0,
    {"function": alive, "tau": dead},
    {"score": None, "low": None, "high": None},
    {"test": {"function": alive, "tau": dead}},
  ).to_dict()
  file = io.StringIO()
  console.Console(file).show_table([summary])
  text = file.getvalue()
  for expected in ("0.500", "0.400 to 0.610", "33%", "2.50", "10", "tau"):
    assert expected in text
  assert "0.450 to 0.550" in text and "0.000 to 1.000" in text  # bounds
  assert "tasks only" not in text
  (mean,) = [line for line in text.splitlines() if "mean of gyms" in line]
  score, between, *bounds = mean.partition("mean of gyms")[2].split()
  assert score == between == "-"  # tau has nothing to tell from
  assert (
    len(bounds) == 4 and bounds[2] == "to"
  )  # which can be told all the same
  assert float(bounds[1]) < float(bounds[3])


def test_table_tells_splits_and_the_mean_of_gyms():
  def gym(score):
    return scorecard.GymEvaluation(
      score, 0.1, 0.9, 0.3, 10, 20, 2.5, 1, 0.45, 0.55, {}
    )

  summary = scorecard.Evaluation(
    "grpo",
    1.0,
    {"function": gym(0.5), "travel": gym(0.7)},
    {"score": 0.6, "low": 0.55, "high": 0.65},
    {"fresh": {"function": gym(0.625)}, "test": {"travel": gym(0.375)}},
  ).to_dict()
  file = io.StringIO()
  console.Console(file).show_table([summary])
  head, _, function, travel, mean = (
    line.split() for line in file.getvalue().splitlines() if line.strip()
  )
  assert head[-6:] == ["fresh", "tasks", "only", "test", "tasks", "only"]
  assert function[-2:] == ["0.625", "-"] and travel[-2:] == ["-", "0.375"]
  assert mean[1:7] == ["mean", "of", "gyms", "0.600", "0.550", "to"]
  # Two are invalid: the mean if they scored 0 is 0.45, and if 1, 0.55.
  assert mean[7:] == ["0.650", "2", "0.450", "to", "0.550"]


def test_table_has_held_out_gyms_apart():
  def group(**scores):
    gyms = {
      name: scorecard.GymEvaluation(
        score, 0.1, 0.9, 0.3, 10, 20, 2.5, int(name == "tau"), 0.45, 0.55, {}
      )
      for name, score in scores.items()
    }
    mean = sum(scores.values()) / len(scores)
    macro = {"score": mean, "low": mean - 0.05, "high": mean + 0.05}
    return gyms, macro, {"fresh": gyms, "test": gyms}

  summary = scorecard.Evaluation(
    "grpo",
    1.0,
    *group(function=0.5, travel=0.7),
    held_out=scorecard.HeldOut(*group(search=0.2, tau=0.4), {}),
    overall={
      kind: {"score": {"mean": mean, "low": mean - 0.02, "high": mean + 0.03}}
      for kind, mean in (("macro", 0.45), ("micro", 0.5))
    },
  ).to_dict()
  file = io.StringIO()
  console.Console(file).show_table([summary])
  lines = [x.split() for x in file.getvalue().splitlines() if x.strip()]
  rows = [" ".join(line[1:]) for line in lines[2:]]
  beginnings = (
    "function 0.500",
    "travel 0.700",
    "mean of gyms 0.600 0.550 to 0.650",
    "search (held out) 0.200",
    "tau (held out) 0.400",
    "mean of held-out gyms 0.300 0.250 to 0.350",
    "mean of all gyms 0.450 0.430 to 0.480",
    "weighted mean of all gyms 0.500 0.480 to 0.530",
  )
  assert len(rows) == len(beginnings)
  for row, beginning in zip(rows, beginnings, strict=True):
    assert row.startswith(beginning)
  assert rows[4].endswith("1 0.450 to 0.550 0.400 0.400")  # splits of its own
