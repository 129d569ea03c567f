"""The merge of released tasks: shares, the filter, the order, the report."""

import json

import pytest

from userrl_jax import merge
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers

parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

LEVELS = {  # of Travel: rows of train, rows of test
  "22": (570, 101),
  "33": (489, 87),
  "44": (379, 67),
  "233": (341, 61),
  "333": (300, 53),
  "334": (266, 47),
  "444": (210, 38),
  "2222": (96, 17),
}
OTHERS = {
  "turtle": (423, 48),
  "persuade": (378, 42),
  "function": (460, 78),
  "tau": (500, 165),
  "telepathy": (360, 41),
  "intention": (380, 40),
  "search": (0, 125),
}


def row(name, number, words=1, **changes):
  prompt = [
    {"role": "system", "content": "Play."},
    {"role": "user", "content": "word " * words},
  ]
  values = {
    "data_source": f"interact_{name}",
    "prompt": prompt,
    "ability": "interaction",
    "reward_model": {
      "env_name": name,
      "id": f"{name}-{number}",
      "style": "rule",
    },
    "extra_info": {"index": number, "split": "train"},
  }
  return values | changes


def write(folder, name, rows, split="train"):
  path = folder / name / f"{split}.parquet"
  path.parent.mkdir(parents=True)
  parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  return path


@pytest.mark.parametrize(
  ("split", "kept", "total"),
  [
    (
      "train",
      {
        "travel": 925,
        "turtle": 423,
        "persuade": 378,
        "function": 200,
        "tau": 500,
      },
      2426,
    ),
    (
      "test",
      {
        **{"travel": 232, "turtle": 48, "persuade": 42, "function": 50},
        **{"tau": 82, "telepathy": 41, "intention": 40, "search": 62},
      },
      597,
    ),
  ],
)
def test_the_shares_are_the_published_ones(split, kept, total):
  place = merge.SPLITS.index(split)
  sources = {
    f"travel{level}": ("travel", [f"{level}/{i}" for i in range(n[place])])
    for level, n in LEVELS.items()
  }
  for gym, n in OTHERS.items():
    sources[gym] = gym, [f"{gym}/{i}" for i in range(n[place])]
  items, counts = merge.merged(sources, merge.USERRL[split], lambda item: 1)
  assert len(items) == len(set(items)) == total
  by_gym = {}
  for of in counts.values():
    by_gym[of.gym] = by_gym.get(of.gym, 0) + of.num_kept
    assert of.num_read == of.num_kept + sum(of.dropped.values())
  assert {gym: n for gym, n in by_gym.items() if n} == kept


def test_a_draw_depends_on_the_seed_and_its_source_alone():
  numbers = {"a": ("tau", range(40)), "b": ("turtle", range(100, 140))}
  shares = {"tau": merge.Share(50), "turtle": merge.Share(50)}
  draw = lambda sources, **seed: merge.merged(sources, shares, int, 999, **seed)
  items, _ = draw(numbers)
  assert items == draw(numbers)[0] and len(items) == 40
  of_a = sorted(i for i in items if i < 40)
  assert sorted(draw({"a": numbers["a"]})[0]) == of_a  # others do not matter
  assert items != sorted(items) and of_a != sorted(
    i for i in draw(numbers, seed=1)[0] if i < 40
  )


def test_the_filter_counts_what_the_agent_reads(tmp_path, capsys):
  tokenizer = tokenizers.train_sentencepiece(["word play"], 512)
  chat = chat_lib.Chat(tokenizer, "full")
  prompt = row("tau", 0, 5)["prompt"]
  size = merge.num_prompt_tokens(chat, prompt)
  read = tokenizer.decode(
    chat.prompt_ids("Play.", "word " * 5, ("action", "answer", "search"))
  )
  assert "interact_with_env" in read and read.endswith("assistant\n")
  assert size == len(
    chat.prompt_ids("Play.", "word " * 5, ("action", "answer", "search"))
  )
  rows = [row("tau", i, 5 + (i == 3)) for i in range(5)]
  sources = {"tau_multiturn": ("tau", rows)}
  count = lambda one: merge.num_prompt_tokens(chat, one["prompt"])
  for limit, num_kept in ((size, 0), (size + 1, 4), (size + 9, 5)):
    kept, counts = merge.merged(sources, merge.USERRL["train"], count, limit)
    assert len(kept) == num_kept
    assert counts["tau_multiturn"].longest == count(rows[3])
    reason = f"prompt of {limit} tokens or more"
    assert counts["tau_multiturn"].dropped.get(reason, 0) == 5 - num_kept


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data_source": "tau"}, "field 'data_source' must begin with 'interact_'"),
    (
      {"prompt": [{"role": "user", "content": "x"}]},
      "field 'prompt' must be a",
    ),
    (
      {"reward_model": {"env_name": "tau"}},
      "'reward_model' must have env_name",
    ),
  ],
)
def test_a_broken_row_is_named(tmp_path, changes, message):
  path = write(tmp_path, "tau_multiturn", [row("tau", 0, **changes)])
  with pytest.raises(ValueError, match=message) as raised:
    merge.read(tmp_path, "train")
  assert str(raised.value).startswith(f"{path}, row 1")
  with pytest.raises(ValueError, match=r"with test.parquet, got none"):
    merge.read(tmp_path, "test")


def test_the_command_merges_released_rows(shared, tmp_path, capsys):
  command = [
    f"--source={shared / 'upstream' / 'data'}",
    f"--tokenizer={shared / 'qwen3_tokenizer'}",
  ]
  # Rows of one gym and level are as good as all, in a fraction of the time.
  shares = ["--shares", "turtle=5%", "persuade=30", "tau=0", "telepathy=20"]
  for name in ("a", "b"):
    assert merge.main([*command, f"--target={tmp_path / name}", *shares]) == 0
  out = capsys.readouterr().out
  assert (
    "| intention_multiturn | intention | 380 | 0 | 0 | held out: 380 |" in out
  )
  a, b = (
    parquet.read_table(tmp_path / name / "train.parquet") for name in "ab"
  )
  assert a == b and a.num_rows == 199 + 21 + 30 + 200 + 20
  report = json.loads((tmp_path / "a" / "train_report.json").read_text())
  sources = report["sources"]
  assert "alltrain_multiturn" not in sources and report["rows"] == a.num_rows
  assert sources["tau_multiturn"]["dropped"] == {"held out": 500}
  travel = sources["travel22_multiturn_onechoice"]
  assert (travel["num_kept"], travel["dropped"]) == (199, {"not drawn": 371})
  assert 700 < travel["longest"] < 1152
  # What it wrote is again such rows.
  folder = tmp_path / "turtle_multiturn"
  (tmp_path / "a").rename(folder)
  (_, rows) = merge.read(tmp_path, "train")["turtle_multiturn"]
  assert len(rows) == a.num_rows
  assert merge.main([*command, f"--target={tmp_path}", "--shares", "x=3"]) == 2
  assert "--shares must be like" in capsys.readouterr().err
