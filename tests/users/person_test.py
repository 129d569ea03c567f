"""A person's verdicts: what is shown, what is typed, and who waits for whom."""

import asyncio
import dataclasses
import enum
import io
import os
import threading

import pytest

from userrl_jax import terminal as terminal_lib
from userrl_jax import types
from userrl_jax import underway
from userrl_jax.gyms import judging
from userrl_jax.users import person


class _Side(enum.StrEnum):
  LEFT = "left"
  LEVEL = "level"
  RIGHT = "right"


@dataclasses.dataclass(frozen=True)
class _Inner:
  x: int


@dataclasses.dataclass(frozen=True)
class _Verdict:
  right: bool
  size: float
  side: _Side = _Side.LEFT


@pytest.mark.parametrize(
  ("kind", "line", "value"),
  [
    (bool, "Y", True),
    (bool, "no", False),
    (bool, "maybe", None),
    (bool, "", None),
    (int, "7", 7),
    (int, "7.0", None),
    (float, "7.5", 7.5),
    (float, "many", None),
    (str, 'a "b", c', 'a "b", c'),
    (_Side, "RIGHT", "right"),
    (_Side, "r", "right"),
    (_Side, "lef", "left"),
    (_Side, "le", None),  # two begin so
    (_Side, "", None),
    (tuple[int, ...], "1, 2 3", [1, 2, 3]),
    (tuple[int, ...], "", []),
    (tuple[int, ...], "None", []),
    (tuple[int, ...], "1, two", None),
    (tuple[str, ...], "a b, c", ["a b", "c"]),
    (tuple[_Side, ...], "left,r", ["left", "right"]),
    (_Inner, '{"x": 1}', {"x": 1}),
    (tuple[_Inner, ...], "[]", []),
    (_Inner, "x=1", None),
  ],
)
def test_a_line_is_read_as_its_type_says(kind, line, value):
  if value is None:
    with pytest.raises(ValueError) as info:
      person.read(line, kind)
    assert str(info.value) == person.form(kind)
  else:
    assert person.read(line, kind) == value


def _ask(lines, *, values=None, check=None, by_judge=False, judge=None):
  """Puts one question; returns the verdict and what was shown."""
  shown = io.StringIO()
  typed = io.StringIO("".join(f"{line}\n" for line in lines))
  asked = person.PersonJudge(terminal_lib.Terminal(typed, shown), judge)
  values = values or {"said": judging.AgentText("Is it?"), "key": "the-key"}
  template = " ".join(f"${name}" for name in values)
  verdict = asked.verdict("Rules.", template, values, _Verdict, check, by_judge)
  return asyncio.run(verdict), shown.getvalue()


def test_a_verdict_is_typed_field_by_field():
  found, shown = _ask(["yes", "2", ""])
  assert found == _Verdict(True, 2.0)  # a field with a default may be left out
  assert "Rules.\n\n  | Is it? the-key\n" in shown
  assert "right (yes | no): " in shown and "size (a number): " in shown


def test_a_verdict_that_does_not_fit_is_asked_for_again():
  def check(verdict):
    if verdict.size > 3:
      raise ValueError("'size' must be 3 or less")

  lines = ["n", "nan", "4", "l", "right", "", "2", ""]
  found, shown = _ask(lines, check=check)
  assert found == _Verdict(False, 2.0, _Side.RIGHT)
  assert "size must be a number, got 'nan'" in shown
  assert "side must be left | level | right, got 'l'" in shown
  assert "'size' must be 3 or less; once more:\nright (yes | no; " in shown
  assert "right (yes | no; enter keeps false): " in shown


def test_a_model_that_judges_keeps_its_key_from_the_person():
  async def complete(messages):
    assert "the-key" in messages[1]["content"]
    return '{"right": true, "size": 1, "side": "right"}'

  judge = judging.Judge(complete, 0)
  found, shown = _ask([], by_judge=True, judge=judge)
  assert found == _Verdict(True, 1.0, _Side.RIGHT)
  assert shown == ""
  found, shown = _ask(["n", "0", ""], judge=judge)
  assert found == _Verdict(False, 0.0) and "the-key" in shown


def test_an_agent_cannot_paint_on_the_terminal():
  text = "a\x1b[2Jb\rc\n\u202eYou won"
  _, shown = _ask(["y", "1", ""], values={"said": judging.AgentText(text)})
  assert "  | a\\x1b[2Jb\\rc\n  | \\u202eYou won\n" in shown


def test_everything_else_goes_on_while_a_person_thinks():
  """And the clock of the turn stands still."""
  reading, writing = os.pipe()
  num_ticks = 0

  async def tick():
    nonlocal num_ticks
    while True:
      await asyncio.sleep(0.01)
      num_ticks += 1

  async def run():
    ticking = asyncio.create_task(tick())
    with open(reading) as typed:
      asked = person.PersonJudge(terminal_lib.Terminal(typed, io.StringIO()))
      threading.Timer(0.4, os.write, (writing, b"yes\n1\n\n")).start()
      async with underway.within(0.1):
        found = await asked.verdict("Rules.", "It.", {}, _Verdict)
    ticking.cancel()
    return found

  try:
    assert asyncio.run(run()) == _Verdict(True, 1.0)
  finally:
    os.close(writing)
  assert num_ticks > 10


def test_who_leaves_is_not_asked_again():
  with pytest.raises(types.FaultError) as info:
    _ask(["yes", "quit"])
  assert info.value.fault == types.Fault.CANCELLED and info.value.is_final
