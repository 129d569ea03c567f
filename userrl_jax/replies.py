"""What a reply of a user says: a yes or a no, and its words.

In: texts of transcripts. Out: what audits compare.
"""

import functools
import re

_POLAR = re.compile(r"(?:^|[.!?:]\s+)(yes|no|y|n)(?=[.,]|$)", re.I)


def polarity(text: str) -> int:
  """Returns 1 for a yes, -1 for a no, 0 for neither; the last one counts."""
  found = _POLAR.findall(text)
  return 0 if not found else 1 if found[-1].lower() in ("yes", "y") else -1


@functools.lru_cache(65536)
def plain(text: str) -> str:
  """Returns the words of a text, without case and punctuation."""
  return " ".join(re.findall(r"\w+", text.lower()))
