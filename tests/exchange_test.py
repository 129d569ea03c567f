"""Dialogues in files: read as written, and refused where something is wrong."""

import json

import pytest

from userrl_jax import exchange
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import turns

TOOL = {
  "type": "function",
  "function": {"name": "interact_with_env", "parameters": {"type": "object"}},
}
CALL = '{"choice": "action", "content": "Is it \\"big\\"?\\nOr é?"}'
GPT = (
  "<think>\nIt may be big.\n</think>\n\nI ask.\n<tool_call>\n"
  f'{{"name": "interact_with_env", "arguments": {CALL}}}\n</tool_call>'
)


def record(**changes):
  said = [
    ("human", "Guess the thing."),
    ("gpt", GPT),
    ("observation", "No.\nReward: 0"),
    ("gpt", "Then I give up."),
  ]
  values = {
    "conversations": [{"from": who, "value": what} for who, what in said],
    "system": "You play.",
    "tools": json.dumps([TOOL]),
  }
  return values | changes


def ours(**changes):
  call = {"name": "f", "arguments": "{}"}
  values = {
    "messages": [
      {"role": "user", "content": "q"},
      {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": call}],
      },
    ]
  }
  return values | changes


def write(path, *records):
  if path.suffix == ".json":
    path.write_text(json.dumps(list(records)))
  else:
    path.write_text("".join(f"{json.dumps(r)}\n\n" for r in records))
  return path


def test_sharegpt_keeps_thoughts_calls_and_observations(tmp_path):
  (read,) = exchange.read(write(tmp_path / "a.json", record()))
  Message = messages_lib.Message
  call = turns.Call("interact_with_env", CALL)
  assert read.messages == (
    Message("system", "You play."),
    Message("user", "Guess the thing."),
    Message("assistant", "I ask.", "It may be big.", (call,)),
    Message("tool", "No.\nReward: 0"),
    Message("assistant", "Then I give up."),
  )
  assert read.tools == (TOOL,) and read.is_well_formed
  assert read.where == f"{tmp_path / 'a.json'}, record 1"


def test_there_and_back_is_the_same(tmp_path):
  first = write(tmp_path / "a.json", record(), record(system=""))
  assert exchange.main([str(first), str(tmp_path / "b.jsonl")]) == 0
  assert (
    exchange.main([str(tmp_path / "b.jsonl"), str(tmp_path / "c.json")]) == 0
  )
  assert json.loads((tmp_path / "c.json").read_text()) == json.loads(
    first.read_text()
  )
  assert exchange.read(first) == exchange.read(tmp_path / "b.jsonl")
  # OpenAI's own rule: each response names the call that it is for.
  messages = json.loads((tmp_path / "b.jsonl").read_text().split("\n")[0])
  _, _, said, heard, _ = messages["messages"]
  assert said["tool_calls"][0]["id"] == heard["tool_call_id"]


def test_ours_keeps_what_is_known_of_a_dialogue(tmp_path):
  about = {"gym": "turtle", "task": "t\u20287", "split": "train", "score": 0.5}
  (read,) = exchange.read(write(tmp_path / "a.jsonl", ours(**about)))
  assert {name: getattr(read, name) for name in about} == about
  exchange.write(tmp_path / "b.jsonl", [read])
  assert exchange.read(tmp_path / "b.jsonl") == [read]


def test_a_folder_is_all_its_files(tmp_path):
  write(tmp_path / "b.json", record())
  write(tmp_path / "a.json", record(system="A"), record())
  systems = [d.messages[0].text for d in exchange.read(tmp_path)]
  assert systems == ["A", "You play.", "You play."]
  write(tmp_path / "c.jsonl", ours())
  assert [d.tools for d in exchange.read(tmp_path)] == [()]  # .jsonl go first


def test_tools_may_come_bare_or_as_a_list(tmp_path):
  for tools in ([TOOL], [TOOL["function"]], json.dumps([TOOL["function"]])):
    (read,) = exchange.read(write(tmp_path / "a.json", record(tools=tools)))
    assert read.tools == (TOOL,)
  for tools in ("", None, []):
    (read,) = exchange.read(write(tmp_path / "a.json", record(tools=tools)))
    assert read.tools == ()


def test_a_call_that_cannot_be_read_is_told_apart(tmp_path, capsys):
  bad = record()
  bad["conversations"][1]["value"] = "<tool_call>\n{not JSON\n</tool_call>"
  path = write(tmp_path / "a.json", record(), bad)
  good, broken = exchange.read(path)
  assert good.is_well_formed and not broken.is_well_formed
  # As text it would no longer be known for what it is.
  assert exchange.main([str(path), str(tmp_path / "b.jsonl")]) == 0
  assert exchange.read(tmp_path / "b.jsonl") == [good]
  assert f"1 ({broken.where}" in capsys.readouterr().out


def said(*speakers):
  return record(conversations=[{"from": s, "value": "x"} for s in speakers])


@pytest.mark.parametrize(
  ("name", "broken", "message"),
  [
    ("a.json", [], "record 2: must be an object"),
    ("a.json", record(extra=1), "record 2: fields must be .* got 'extra'"),
    (
      "a.json",
      record(system=3),
      "record 2: field 'system' must be text, got 3",
    ),
    ("a.json", record(tools="[{"), "record 2: field 'tools' must be a list"),
    ("a.json", record(tools=[{"name": 3}]), r"record 2: tools\[0\].function"),
    (
      "a.json",
      said("human", "bot"),
      r"conversations\[1\]: field 'from' .*'bot'",
    ),
    ("a.json", said("gpt", "human"), r"conversations\[0\]: .* be human here"),
    ("a.json", said("human", "human"), r"conversations\[1\]: .* be gpt here"),
    ("a.json", said("human"), "'conversations' must end with a turn of the"),
    ("a.json", record(conversations=[]), "must end with .* got system"),
    (
      "a.json",
      record(conversations=[{"from": "human"}]),
      r"conversations\[0\]: field 'value' must be text",
    ),
    ("a.jsonl", ours(score=1.5), r"line 3: field 'score' must be in \[0, 1\]"),
    ("a.jsonl", ours(gym=1), "line 3: field 'gym' must be text"),
    ("a.jsonl", ours(messages=[]), "line 3: messages must hold at least one"),
    (
      "a.jsonl",
      ours(messages=[{"role": "bot"}]),
      r"line 3: messages\[0\].role must be one of",
    ),
    (
      "a.jsonl",
      ours(
        messages=ours()["messages"] * 2 + [{"role": "user", "content": "x"}]
      ),
      "line 3: field 'messages' must end with a turn of the agent",
    ),
  ],
)
def test_what_is_wrong_is_named(tmp_path, name, broken, message):
  good = record() if name == "a.json" else ours()
  path = write(tmp_path / name, good, broken)
  with pytest.raises(ValueError, match=message) as raised:
    exchange.read(path)
  assert str(raised.value).startswith(str(path))


def test_arguments_must_be_an_object(tmp_path):
  broken = ours()
  call = broken["messages"][1]["tool_calls"][0]["function"]
  call["arguments"] = "[1]"
  with pytest.raises(ValueError, match=r"messages\[1\].tool_calls\[0\]"):
    exchange.read(write(tmp_path / "a.jsonl", broken))


def test_what_sharegpt_has_no_place_for_is_refused(tmp_path, capsys):
  twice = ours()
  twice["messages"] += [{"role": "tool", "content": "x"}] * 2
  twice["messages"].append({"role": "assistant", "content": "y"})
  path = write(tmp_path / "a.jsonl", twice)
  assert exchange.main([str(path), str(tmp_path / "b.json")]) == 2
  assert "must take turns" in capsys.readouterr().err
  assert not (tmp_path / "b.json").exists()
  for name in ("none.json", "a.txt"):
    assert exchange.main([str(tmp_path / name), "b.json"]) == 2
