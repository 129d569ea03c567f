"""Round trips, unreachable special ids, training, loading."""

import json
import shutil
import unicodedata

import hypothesis
from hypothesis import strategies
import pytest
import tokenizers as hf_tokenizers

from userrl_jax.chat import qwen3
from userrl_jax.chat import tokenizers

SPECIAL_TEXT = strategies.lists(
  strategies.one_of(
    strategies.sampled_from(list(tokenizers.Special)),
    strategies.sampled_from(["<", "|", "think", "im_end", "|>", "/", " ", "_"]),
    strategies.text(),
  )
).map("".join)

_FLAGS = dict.fromkeys(
  ("single_word", "lstrip", "rstrip", "normalized", "special"), False
)


def test_round_trip(tokenizer, make_text):
  is_real = isinstance(tokenizer, tokenizers.HuggingFaceTokenizer)
  for seed in range(300):
    text = make_text(seed, specials=True)
    expected = unicodedata.normalize("NFC", text) if is_real else text
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@hypothesis.settings(
  max_examples=300,
  derandomize=True,
  database=None,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(text=SPECIAL_TEXT)
def test_text_never_reaches_a_special_id(tokenizer, text):
  ids = tokenizer.encode(text)
  assert set(ids).isdisjoint(tokenizer.special_ids.values())
  assert all(0 <= i < tokenizer.vocab_size for i in ids)
  if isinstance(tokenizer, tokenizers.SentencePieceTokenizer):
    assert tokenizer.decode(ids) == text


def test_every_special_string_is_ordinary_text(tokenizer):
  for string, special_id in tokenizer.special_ids.items():
    ids = tokenizer.encode(f"a{string}b{string}")
    assert special_id not in ids
    assert tokenizer.decode(ids) == f"a{string}b{string}"
    assert tokenizer.decode([special_id]) == string
    assert special_id < tokenizer.vocab_size


def test_named_ids(tokenizer):
  assert tokenizer.decode([tokenizer.im_start_id]) == "<|im_start|>"
  assert tokenizer.decode([tokenizer.im_end_id]) == "<|im_end|>"
  assert tokenizer.decode([tokenizer.pad_id]) == "<|endoftext|>"
  assert set(tokenizers.Special) <= tokenizer.special_ids.keys()


def test_decodes_whatever_a_model_may_sample(tokenizer):
  size = tokenizer.vocab_size
  step = max(1, size // 5000)
  for i in range(0, size, step):
    text = tokenizer.decode([i])
    text.encode()
  hello = tokenizer.encode("hello")
  assert tokenizer.decode([*hello, size, size + 100, *hello]) == "hellohello"
  assert "\ufffd" in tokenizer.decode(tokenizer.encode("\u0378")[:-1])


def test_lone_surrogates_are_replaced(tokenizer):
  assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_save_and_load(tokenizer, tmp_path):
  is_real = isinstance(tokenizer, tokenizers.HuggingFaceTokenizer)
  tokenizer.save(tmp_path / "new" / "folder")
  kind = "huggingface" if is_real else "sentencepiece"
  loaded = tokenizers.load(tmp_path / "new" / "folder", kind)
  assert loaded.fingerprint == tokenizer.fingerprint
  assert len(loaded.fingerprint) == 64
  assert loaded.vocab_size == tokenizer.vocab_size
  assert loaded.special_ids == tokenizer.special_ids
  text = "f(1, 2) = -23 <think>"
  assert loaded.encode(text) == tokenizer.encode(text)


def test_saved_real_tokenizer_loads_in_transformers(
  real_tokenizer, published, tmp_path
):
  real_tokenizer.save(tmp_path)
  loaded = type(published).from_pretrained(tmp_path, local_files_only=True)
  assert loaded.chat_template == published.chat_template
  assert loaded.get_vocab() == published.get_vocab()


def test_real_ids_equal_transformers(real_tokenizer, published, make_text):
  for seed in range(200):
    text = make_text(seed, specials=False)
    expected = published.encode(text, add_special_tokens=False)
    assert real_tokenizer.encode(text) == expected
  assert real_tokenizer.vocab_size == len(published)


def test_every_id_below_the_size_stands_for_something(tokenizer, tmp_path):
  assert tokenizer.unused_ids == ()
  if isinstance(tokenizer, tokenizers.HuggingFaceTokenizer):
    assert tokenizer.vocab_size == 151_669  # of the 151,936 of a model
  vocab = {"?": 0, "a": 2, "b": 5}
  model = hf_tokenizers.models.WordLevel(vocab, "?")
  spec = json.loads(hf_tokenizers.Tokenizer(model).to_str())
  spec["added_tokens"] = [
    {"id": 7 + i, "content": s.value, **_FLAGS}
    for i, s in enumerate(tokenizers.Special)
  ]
  (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
  loaded = tokenizers.load(tmp_path, "huggingface")
  assert loaded.unused_ids == (1, 3, 4, 6)
  assert loaded.vocab_size == 7 + len(tokenizers.Special)


def test_space_and_its_stand_in_are_different(small_tokenizer):
  ids = {t: small_tokenizer.encode(t) for t in (" a", "\u2581a")}
  assert ids[" a"] != ids["\u2581a"]
  for text in ("\u2581", "\u2581\u2581 ", " \u2581", "a\u2581", "  ", " "):
    assert small_tokenizer.decode(small_tokenizer.encode(text)) == text


@pytest.mark.parametrize("number", ["0", "7", "10", "23", "60"])
def test_a_number_has_the_same_pieces_everywhere(small_tokenizer, number):
  ids = small_tokenizer.encode(number)
  assert len(ids) == 1
  for frame in ('"%s"', "= %s", "-%s", "a%s.", "%s ", ' "content": "%s"}}\n'):
    before, after = frame.split("%s")
    expected = small_tokenizer.encode(before) + ids
    expected += small_tokenizer.encode(after)
    assert small_tokenizer.encode(frame % number) == expected
  assert len(small_tokenizer.encode(f"-{number}")) == 2


def test_every_integer_up_to_99_is_at_most_two_pieces(small_tokenizer):
  assert all(len(small_tokenizer.encode(str(i))) <= 2 for i in range(100))


def test_training_is_deterministic_and_takes_an_iterator():
  texts = [f"one {i} two {i * i}" for i in range(200)]
  first = tokenizers.train_sentencepiece(iter(texts), 450)
  second = tokenizers.train_sentencepiece(texts, 450)
  shuffled = tokenizers.train_sentencepiece(texts[::-1], 450)
  assert first.fingerprint == second.fingerprint == shuffled.fingerprint
  assert first.vocab_size == 450
  other = tokenizers.train_sentencepiece(texts[:100], 450)
  assert other.fingerprint != first.fingerprint


def test_training_on_nothing_still_writes_everything():
  tokenizer = tokenizers.train_sentencepiece([], 512)
  assert tokenizer.vocab_size <= 512
  assert tokenizer.decode(tokenizer.encode("a = 23\n漢")) == "a = 23\n漢"


def test_phrases_are_single_pieces(small_tokenizer):
  for phrase in qwen3.PHRASES:
    assert len(small_tokenizer.encode(phrase)) == 1
    assert small_tokenizer.decode(small_tokenizer.encode(phrase)) == phrase


def test_a_vocabulary_that_is_too_small_is_refused():
  with pytest.raises(ValueError, match=r"at least 365 .* got 364") as error:
    tokenizers.train_sentencepiece(["a"], 364)
  assert "raise tokenizer.vocab_size" in str(error.value)
  assert tokenizers.train_sentencepiece(["a"], 365).vocab_size == 365


@pytest.mark.parametrize("kind", ["huggingface", "sentencepiece"])
def test_load_names_what_is_missing(tmp_path, kind):
  with pytest.raises(ValueError, match="nowhere"):
    tokenizers.load(tmp_path / "nowhere", kind)
  with pytest.raises(ValueError, match="folder must exist, got ''"):
    tokenizers.load("", kind)
  with pytest.raises(ValueError, match=r"tokenizer[.](json|model).*missing"):
    tokenizers.load(tmp_path, kind)
  name = {"huggingface": "json", "sentencepiece": "model"}[kind]
  (tmp_path / f"tokenizer.{name}").write_bytes(b"{broken")
  with pytest.raises(ValueError, match=f"tokenizer.{name}.*copy it again"):
    tokenizers.load(tmp_path, kind)


def test_load_refuses_an_unknown_kind(tmp_path):
  with pytest.raises(ValueError, match="huggingface, sentencepiece, got 'bpe'"):
    tokenizers.load(tmp_path, "bpe")


def test_load_refuses_a_tokenizer_of_another_family(real_folder, tmp_path):
  shutil.copy(real_folder / "tokenizer_config.json", tmp_path)
  spec = json.loads((real_folder / "tokenizer.json").read_bytes())
  spec["added_tokens"] = [
    t for t in spec["added_tokens"] if "think" not in t["content"]
  ]
  (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
  with pytest.raises(ValueError, match="no special token <think> </think>"):
    tokenizers.load(tmp_path, "huggingface")


def test_load_refuses_a_tokenizer_whose_text_reaches_special_ids(tmp_path):
  vocab = {s.value: i for i, s in enumerate(tokenizers.Special)}
  model = hf_tokenizers.models.WordLevel({**vocab, "?": len(vocab)}, "?")
  reachable = hf_tokenizers.Tokenizer(model)
  reachable.add_special_tokens(list(vocab))
  reachable.save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(ValueError, match="text can reach the special token"):
    tokenizers.load(tmp_path, "huggingface")
