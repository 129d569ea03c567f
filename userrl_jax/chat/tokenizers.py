"""Turns plain text into ids and ids into text, behind one small interface.

In: any text. Out: ids below `vocab_size`. Special tokens (`<|im_start|>`,
`<tool_call>`, ...) are out of reach of text: `encode` never yields one, even
when the text spells it. Only `chat.qwen3` writes them, and the policy samples
them.

Two implementations:
  HuggingFaceTokenizer    a published `tokenizer.json`, byte-level BPE
  SentencePieceTokenizer  the small built-in one, trained on first use
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import enum
import hashlib
import io
import json
import pathlib
import re
from typing import Protocol

import sentencepiece
import tokenizers as hf_tokenizers


class Special(enum.StrEnum):
  """The special tokens that the chat format needs."""

  PAD = "<|endoftext|>"
  IM_START = "<|im_start|>"
  IM_END = "<|im_end|>"
  THINK = "<think>"
  THINK_END = "</think>"
  TOOL_CALL = "<tool_call>"
  TOOL_CALL_END = "</tool_call>"
  TOOL_RESPONSE = "<tool_response>"
  TOOL_RESPONSE_END = "</tool_response>"


class Tokenizer(Protocol):
  """What the rest of the system may ask of a tokenizer."""

  # Every id is below it, special ids included. A model may have more ids (a
  # published Qwen3 pads 151,669 to 151,936): they stand for nothing.
  vocab_size: int
  unused_ids: tuple[int, ...]  # below vocab_size, that stand for nothing
  im_start_id: int
  im_end_id: int
  pad_id: int
  special_ids: dict[str, int]  # all ids that text cannot reach
  fingerprint: str  # sha256 in hex; equal when every text has equal ids

  def encode(self, text: str) -> list[int]:
    """Encodes text as text: never yields a special id."""

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes ids for reading; special tokens show as their strings."""

  def save(self, folder: str | pathlib.Path) -> None:
    """Writes what `load` needs."""


def load(folder: str | pathlib.Path, kind: str) -> Tokenizer:
  """Loads a tokenizer from a local folder; never from a network.

  Args:
    folder: holds `tokenizer.json` or `tokenizer.model`.
    kind: "huggingface" or "sentencepiece".

  Raises:
    ValueError: when the kind is unknown, the folder or a file is missing, or
      the file is not a tokenizer with the special tokens of the chat format.
  """
  kinds: dict[
    str, type[HuggingFaceTokenizer] | type[SentencePieceTokenizer]
  ] = {
    "huggingface": HuggingFaceTokenizer,
    "sentencepiece": SentencePieceTokenizer,
  }
  if kind not in kinds:
    raise ValueError(
      f"the tokenizer kind must be one of {', '.join(kinds)}, got {kind!r}"
    )
  if not str(folder) or not pathlib.Path(folder).is_dir():
    raise ValueError(
      f"the tokenizer folder must exist, got {str(folder)!r}; set the "
      "tokenizer's folder to one that holds the tokenizer's files"
    )
  folder = pathlib.Path(folder)
  tokenizer_class = kinds[kind]
  path = folder / tokenizer_class.FILE
  if not path.is_file():
    raise ValueError(
      f"a {kind} tokenizer needs the file {str(path)!r}, which is missing; "
      f"copy {tokenizer_class.FILE} there or name another folder"
    )
  others = {
    name: (folder / name).read_bytes()
    for name in tokenizer_class.OTHER_FILES
    if (folder / name).is_file()
  }
  try:
    return tokenizer_class(path.read_bytes(), others)
  except Exception as error:  # the libraries raise bare Exception and others
    raise ValueError(
      f"{str(path)!r} must be a {kind} tokenizer for the Qwen3 chat format, "
      f"got: {error}; copy it again or name another folder"
    ) from error


class HuggingFaceTokenizer:
  """A published byte-level BPE tokenizer, read from its `tokenizer.json`.

  The file goes straight to the `tokenizers` library that `transformers` wraps:
  no remote code can run and the published file rules to the letter (tests hold
  the ids against `transformers`). The added tokens are cut out of the encoder,
  so no text can match them; `split_special_tokens=True` is not enough, because
  it still matches `<think>` and other added tokens not flagged as special.

  The published normaliser composes characters (NFC), so text that is not in
  that form decodes to its composed form.
  """

  FILE = "tokenizer.json"
  OTHER_FILES: tuple[str, ...] = (
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
  )

  def __init__(self, data: bytes, others: Mapping[str, bytes] | None = None):
    self._files = {self.FILE: data, **(others or {})}
    self.fingerprint = hashlib.sha256(data).hexdigest()
    spec = json.loads(data)
    self.special_ids = {t["content"]: t["id"] for t in spec["added_tokens"]}
    missing = [s.value for s in Special if s not in self.special_ids]
    if missing:
      raise ValueError(f"no special token {' '.join(missing)}")
    spec["added_tokens"] = []
    self._text_only = hf_tokenizers.Tokenizer.from_str(json.dumps(spec))
    self._strings = {i: s for s, i in self.special_ids.items()}
    for string in self.special_ids:
      if not self._strings.keys().isdisjoint(self.encode(string)):
        raise ValueError(f"text can reach the special token {string}")
    used = {*spec["model"]["vocab"].values(), *self._strings}
    self.vocab_size = 1 + max(used)
    self.unused_ids = tuple(sorted({*range(self.vocab_size)} - used))
    self.im_start_id = self.special_ids[Special.IM_START]
    self.im_end_id = self.special_ids[Special.IM_END]
    self.pad_id = self.special_ids[Special.PAD]

  def encode(self, text: str) -> list[int]:
    """Encodes text as text: never yields a special id."""
    text = _without_surrogates(text)
    return self._text_only.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes ids for reading; ids that stand for nothing are left out."""
    parts: list[str] = []
    run: list[int] = []
    for i in map(int, ids):
      if i in self._strings:
        parts += [self._decode_run(run), self._strings[i]]
        run = []
      else:
        run.append(i)
    return "".join(parts) + self._decode_run(run)

  def save(self, folder: str | pathlib.Path) -> None:
    """Writes the tokenizer's files as they were loaded."""
    _write(folder, self._files)

  def _decode_run(self, ids: list[int]) -> str:
    return self._text_only.decode(ids, skip_special_tokens=False)


class SentencePieceTokenizer:
  """A SentencePiece model with the special tokens on ids above its own.

  Every text without lone surrogates decodes to itself. The model knows nothing
  of the special tokens, so no text can reach them. SentencePiece writes a space
  as U+2581, hence a real U+2581 is written as its three bytes.
  """

  FILE = "tokenizer.model"
  OTHER_FILES: tuple[str, ...] = ()

  def __init__(self, data: bytes, others: Mapping[str, bytes] | None = None):
    assert not others
    self._model_proto = data
    specials = "".join(Special).encode()
    self.fingerprint = hashlib.sha256(data + specials).hexdigest()
    self._model = sentencepiece.SentencePieceProcessor(model_proto=data)
    size = self._model.vocab_size()
    self._bytes = [_piece_bytes(self._model, i) for i in range(size)]
    self._bytes += [s.encode() for s in Special]
    self._space_char_ids = [
      self._model.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()
    ]
    if not all(map(self._model.is_byte, self._space_char_ids)):
      raise ValueError("a model without byte pieces")
    self.special_ids = {s.value: size + i for i, s in enumerate(Special)}
    self.vocab_size = len(self._bytes)
    self.unused_ids: tuple[int, ...] = ()
    self.im_start_id = self.special_ids[Special.IM_START]
    self.im_end_id = self.special_ids[Special.IM_END]
    self.pad_id = self.special_ids[Special.PAD]

  def encode(self, text: str) -> list[int]:
    """Encodes text as text: never yields a special id."""
    first, *rest = _without_surrogates(text).split(_SPACE)
    ids = self._model.encode(first)
    for part in rest:
      ids += self._space_char_ids + self._model.encode(part)
    return ids

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes ids for reading; ids that stand for nothing are left out."""
    size = self.vocab_size
    data = b"".join(self._bytes[i] for i in map(int, ids) if 0 <= i < size)
    return data.decode("utf-8", errors="replace")

  def save(self, folder: str | pathlib.Path) -> None:
    """Writes `tokenizer.model`."""
    _write(folder, {self.FILE: self._model_proto})


def train_sentencepiece(
  texts: Iterable[str], vocab_size: int, phrases: Sequence[str] = ()
) -> SentencePieceTokenizer:
  """Trains the built-in tokenizer; the same texts give the same bytes.

  Pieces are learned inside chunks: a word with at most one space before it, a
  run of digits, or one mark. So a number has the same pieces wherever it stands
  (= 23, -23, {"content": "23"}), and a frequent number is one piece. Every
  printable ASCII character is a piece; those beyond are spelled in bytes.

  Args:
    texts: what the tokenizer should be good at.
    vocab_size: pieces at most, special tokens included.
    phrases: strings that become one piece each wherever they stand, such as the
      fixed parts of a tool call (`qwen3.PHRASES`).

  Raises:
    ValueError: when `vocab_size` cannot hold the bytes, characters and phrases.
  """
  counts = collections.Counter({c: 1 for c in _ALPHABET})
  for text in texts:
    counts.update(_CHUNK.findall(text))
  phrases = list(dict.fromkeys(["\n", *_SPACED_MARKS, *phrases]))
  smallest = 1 + 256 + len(_ALPHABET) + len(phrases) + len(Special)
  if vocab_size < smallest:
    raise ValueError(
      f"the vocabulary must hold at least {smallest} pieces (bytes, "
      f"characters, phrases, special tokens), got {vocab_size}; raise "
      "tokenizer.vocab_size"
    )
  rows = sorted(counts.items())
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(f"{c.replace(' ', _SPACE)}\t{n}" for c, n in rows),
    input_format="tsv",
    model_writer=model,
    model_type="bpe",
    vocab_size=vocab_size - len(Special),
    hard_vocab_limit=False,  # few texts may hold fewer pieces than asked for
    byte_fallback=True,
    character_coverage=1.0,
    normalization_rule_name="identity",
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    split_by_whitespace=False,  # the chunks are split already
    split_by_unicode_script=False,
    split_by_number=False,
    user_defined_symbols=[p.replace(" ", _SPACE) for p in phrases],
    unk_id=0,
    bos_id=-1,
    eos_id=-1,
    pad_id=-1,
    num_threads=1,  # determinism
    minloglevel=2,
  )
  return SentencePieceTokenizer(model.getvalue())


_SPACE = "\u2581"  # how SentencePiece writes a space
_ALPHABET = " " + "".join(map(chr, range(33, 127)))
_CHUNK = re.compile(r" ?[A-Za-z_]+|[0-9]+|[!-~]")
# SentencePiece learns no piece that ends in a space; these part numbers.
_SPACED_MARKS = (", ", ": ", "= ")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _without_surrogates(text: str) -> str:
  """Replaces lone surrogates, which no encoding of text can carry."""
  return _SURROGATE.sub("\ufffd", text)


def _piece_bytes(
  model: sentencepiece.SentencePieceProcessor, piece_id: int
) -> bytes:
  """Returns the UTF-8 bytes that a piece stands for."""
  piece = model.id_to_piece(piece_id)
  if model.is_byte(piece_id):
    return bytes([int(piece[3:5], 16)])  # <0xE2>
  if model.is_unknown(piece_id):
    return "\ufffd".encode()  # never encoded, but a model may sample it
  return piece.replace(_SPACE, " ").encode()


def _write(folder: str | pathlib.Path, files: Mapping[str, bytes]) -> None:
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for name, data in files.items():
    (folder / name).write_bytes(data)
