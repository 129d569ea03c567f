"""Reads the text of a compiled program.

In: what `jax.stages.Compiled.as_text` gives. Out: its computations, one after
the other, of which `program_work` adds up what they do:

  %body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
    %w = f32[8,16]{1,0} get-tuple-element(%p), index=1
    ROOT %t = (s32[], f32[8,16]) tuple(%i, %w)
  }
"""

from collections.abc import Iterator
import dataclasses
import math
import re

_BYTES = {"pred": 1, "token": 0, "opaque": 0}  # others: the digits in the name
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_OPCODE = re.compile(r"\s*([a-z][\w-]*)\(")
_NAME = re.compile(r"%([\w.-]+)")
_SAME = {"copy", "bitcast", "convert", "reshape", "copy-start", "copy-done"}


@dataclasses.dataclass(frozen=True)
class Array:
  """A result, or one of several."""

  dtype: str
  dims: tuple[int, ...]
  is_in_hbm: bool

  @property
  def num_bytes(self) -> int:
    """Returns what it takes."""
    size = _BYTES.get(self.dtype)
    if size is None:
      bits = re.search(r"\d+", self.dtype)
      size = max(1, int(bits[0]) // 8) if bits else 1
    return size * math.prod(self.dims)

  @property
  def hbm_bytes(self) -> int:
    """Returns what it takes of the memory, and not of what is on the chip."""
    return self.num_bytes if self.is_in_hbm else 0

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Op:
  """An operation, as its line has it."""

  name: str
  opcode: str
  arrays: tuple[Array, ...]  # of its result; several where it is a tuple
  inputs: tuple[str, ...]
  literal: str  # what stands between the brackets
  rest: str  # what comes after

  def calls(self, *words: str) -> list[str]:
    """Returns the computations that it names after these words."""
    found = []
    for word in words:
      match = re.search(rf"\b{word}=(?:\{{([^}}]*)\}}|%([\w.-]+))", self.rest)
      if match:
        found += _NAME.findall(match[1]) if match[1] else [match[2]]
    return found


@dataclasses.dataclass
class Computation:
  """Operations by name; `root` is that which gives the result."""

  ops: dict[str, Op]
  root: str = ""

  def source(self, name: str) -> Op:
    """Returns the operation that made a value, behind copies of it."""
    op = self.ops[name]
    while op.opcode in _SAME and op.inputs:
      op = self.ops[op.inputs[0]]
    return op

  def parameters(self) -> dict[int, str]:
    """Returns the names of the arguments, by their place."""
    return {
      int(op.literal): op.name
      for op in self.ops.values()
      if op.opcode == "parameter"
    }


def parse(text: str) -> tuple[dict[str, Computation], str]:
  """Returns the computations by name, and which of them is the program."""
  computations: dict[str, Computation] = {}
  entry, current = "", None
  for line in _joined(text):
    if line.startswith(("%", "ENTRY ")) and line.endswith("{"):
      name = _NAME.search(line)
      assert name, line
      current = computations[name[1]] = Computation({})
      entry = name[1] if line.startswith("ENTRY ") else entry
    elif line.startswith("}"):
      current = None
    elif current is not None:
      op = _parse_op(line)
      current.ops[op.name] = op
      if line.lstrip().startswith("ROOT "):
        current.root = op.name
  return computations, entry


def ints(text: str) -> list[int]:
  """Returns numbers that commas part."""
  return [int(part) for part in text.split(",") if part]


def _joined(text: str) -> Iterator[str]:
  """Yields lines; what attributes spread over several is one."""
  whole = ""
  ends = "  %", "  ROOT ", "}, ", "%", "ENTRY "  # of a computation, or an op
  for line in text.splitlines():
    if whole and not line.startswith(ends) and line != "}":
      whole += line
      continue
    if whole:
      yield whole
    whole = line if line.startswith("  ") else ""
    if not whole:
      yield line
  assert not whole, whole


def _parse_op(line: str) -> Op:
  name, _, value = line.strip().removeprefix("ROOT ").partition(" = ")
  end = _end_of_brackets(value, 0) if value.startswith("(") else value.find(" ")
  kind, value = value[:end], value[end:]
  opcode = _OPCODE.match(value)
  assert opcode, line
  end = _end_of_brackets(value, opcode.end() - 1)
  literal = value[opcode.end() : end - 1]
  return Op(
    name.removeprefix("%"),
    opcode[1],
    tuple(_arrays(kind)),
    tuple(_NAME.findall(literal)),
    literal,
    value[end:],
  )


def _arrays(kind: str) -> Iterator[Array]:
  for dtype, dims, layout in _ARRAY.findall(kind):
    yield Array(dtype, tuple(ints(dims)), "S(" not in layout)


def _end_of_brackets(text: str, start: int) -> int:
  """Returns the place behind the bracket that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += (text[i] == "(") - (text[i] == ")")
    if not depth:
      return i + 1
  raise AssertionError(text)
