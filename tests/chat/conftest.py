"""Tokenizers and awkward texts shared by the chat tests."""

import os
import pathlib
import random

import pytest

from userrl_jax.chat import qwen3
from userrl_jax.chat import tokenizers


def pytest_generate_tests(metafunc):
  if "tokenizer" in metafunc.fixturenames:
    metafunc.parametrize("tokenizer", ["small", "real"], indirect=True)


@pytest.fixture(scope="session")
def small_tokenizer():
  rng = random.Random(0)
  texts = []
  for _ in range(500):
    numbers = [rng.randint(-9, 9) for _ in range(4)]
    texts.append(f"f{tuple(numbers)} = {rng.randint(-60, 60)}. Wrong answer.")
  return tokenizers.train_sentencepiece(texts, 512, qwen3.PHRASES)


@pytest.fixture(scope="session")
def real_folder():
  shared = os.environ.get("USERRL_SHARED")
  if not shared:
    pytest.skip("set USERRL_SHARED to the folder with qwen3_tokenizer/")
  return pathlib.Path(shared) / "qwen3_tokenizer"


@pytest.fixture(scope="session")
def real_tokenizer(real_folder):
  return tokenizers.load(real_folder, "huggingface")


@pytest.fixture(scope="session")
def published(real_folder):
  transformers = pytest.importorskip("transformers")
  return transformers.AutoTokenizer.from_pretrained(
    real_folder, local_files_only=True, trust_remote_code=False
  )


@pytest.fixture(scope="session")
def tokenizer(request):
  return request.getfixturevalue(f"{request.param}_tokenizer")


@pytest.fixture(scope="session")
def make_text():
  return _make_text


_WORDS = (
  *("the", "four", " numbers", "f(1, -2)", "= 23", "-7", "3.5", "1234567"),
  *(" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "'s", '"', "\\", "{", "}}\n"),
  *(
    "\u2581",
    "\u2581a",
    " \u2581 ",
    "é",
    "ß",
    "漢字",
    "🙂",
    "👩‍👩‍👧",
    "\u200b",
    "ﬁ",
  ),
  *(
    "e\u0301",
    "\u0000",
    "\u0007",
    "<0x41>",
    "<unk>",
    "<s>",
    "\ufffd",
    "\ufeff",
  ),
  *(
    "[answer]",
    "<tools>",
    "</tools>",
    "user\n",
    "assistant\n",
    '", "content": "',
  ),
)
_SPECIALS = (*tokenizers.Special, "<|fim_prefix|>", "<|vision_start|>")


def _make_text(seed: int, specials: bool) -> str:
  """Makes an awkward text: empty, short, or at times very long."""
  rng = random.Random(seed)
  words = _WORDS + (_SPECIALS if specials else ())
  length = (0, 1, 3, 10, 40, 2000)[seed % 6 if seed % 60 < 6 else seed % 5]
  return "".join(rng.choices(words, k=length))
