"""What of a turn may be streamed already, and what is held back."""

import pytest

from userrl_jax.serving import completions


@pytest.mark.parametrize(
  ("texts", "sent"),
  [
    (["well st", "well stop", "well stay"], ["well ", "", "stay"]),
    (["well st", "well "], ["well ", ""]),  # it did stop there
    (["caf\ufffd", "café"], ["caf", "é"]),  # half a character
    (["a\n", "a\nb", "a\nb\n"], ["a", "\nb", "\n"]),  # perhaps a call follows
    (["a", "a"], ["a", ""]),
  ],
)
def test_only_what_stays_is_streamed(texts, sent):
  deltas = completions._Deltas(("stop now", "stopped"))
  got = []
  for i, text in enumerate(texts):
    reason = "stop" if i + 1 == len(texts) else ""
    choice = completions.Choice({"content": text}, i, reason)
    got.append("".join(d["content"] for d in deltas.of(choice)))
  assert got == sent
