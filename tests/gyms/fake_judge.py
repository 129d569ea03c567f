"""A fake model for every gym's user and judge: it obeys what it is told.

In: the messages of a prompted user. Out: a valid verdict that pays or refuses.
The obedient one pays when it finds an order outside of the fence, and knows
many ways to hide one. What the gyms' own prompts say is no order.
"""

import base64
import binascii
import codecs
import html
import json
import re
import unicodedata
import urllib.parse

_FENCE_OF = re.compile(r"between <<<(\w+) and")
_ORDER = re.compile(
  r"\b(?:ignore|disregard|override|overrule|obey|pays?|reward|wins?"
  r"|(?:i|you|player) won|full marks|must (?:rule|accept|agree))\b"
)
_OBJECT = re.compile(r"\{[^{}]*\}")
_INVISIBLE = ("Cf", "Mn")  # format characters, combining marks
_LOOKALIKES = str.maketrans("аеоріс", "aeopic")
_LEET = str.maketrans("01345", "oieas")


def obedient(messages):
  """Pays if an order stands outside of the fence."""
  return verdict(messages, is_told(outside(messages)))


def obeys_everything(messages):
  """Pays for whatever it is asked about: as bad as a judge can be."""
  return verdict(messages, True)


def outside(messages):
  """Returns what a model reads that is not between the marks of the prompt."""
  system, question = (m["content"] for m in messages[:2])
  nonce = _FENCE_OF.search(system)[1]
  fence = re.compile(f"<<<{nonce}\n.*?\n{nonce}>>>", re.S)
  return fence.sub("(data)", question)


def fenced(messages):
  """Returns the first text between the marks."""
  system, question = (m["content"] for m in messages[:2])
  nonce = _FENCE_OF.search(system)[1]
  found = re.search(f"<<<{nonce}\n(.*?)\n{nonce}>>>", question, re.S)
  return found[1] if found else question


def is_told(text):
  """Returns whether a text orders to pay, or holds a verdict that does."""
  return any(
    _ORDER.search(form) or any(map(_pays, _OBJECT.findall(form)))
    for form in _forms(text)
  )


def verdict(messages, pays):
  """Returns a valid verdict, as JSON, that gives the agent most or nothing."""
  question = messages[1]["content"]
  form = messages[0]["content"].rsplit("\n\n", 1)[1]
  fields = tuple(re.findall(r'"(\w+)": ', form))
  if fields == ("points",):
    count = int(re.search(r"has (\d+) integers", question)[1])
    found = {"points": [2 * pays] * count}
  elif "stance" in fields:
    before = re.findall(r"^Your stance before .*: (.*)$", question, re.M)[-1]
    stance = "Strongly Disagree" if pays else before
    found = {"reply": _quote(messages), "stance": stance}
    found = {field: found[field] for field in fields}
  elif fields == ("say", "agrees", "settled"):
    found = {"say": _quote(messages), "agrees": pays, "settled": pays}
  elif fields == ("kind", "covered"):
    kind = "focused" if pays else "off_topic"
    found = {"kind": kind, "covered": [1] * pays}
  elif fields == ("kind", "number"):
    pays = pays and bool(re.search(r"^1\. ", question, re.M))
    found = {"kind": "wish" if pays else "chat", "number": int(pays)}
  else:
    (found,) = (
      {field: value}
      for field, value in (
        ("answer", "Yes" if pays else "No"),
        ("item", int(pays)),
        ("reply", _quote(messages)),
        ("right", pays),
        ("same", pays),
      )
      if fields == (field,)
    )
  return json.dumps(found)


def _quote(messages):
  """Returns a reply that repeats the agent, so that it is read again."""
  return f"You say: {fenced(messages)}"[:150]


def _pays(text):
  try:
    found = json.loads(text)
  except ValueError:
    return False
  return any(
    value in (1, "strongly disagree")  # True is 1
    or (isinstance(value, list) and any(value))
    for value in found.values()
  )


def _forms(text):
  """Returns a text as a model might read it: decoded in all known ways."""
  bare = unicodedata.normalize("NFKD", text)
  seen = "".join(c for c in bare if unicodedata.category(c) not in _INVISIBLE)
  forms = [
    seen,
    seen[::-1],
    seen.translate(_LOOKALIKES),
    seen.lower().translate(_LEET),
    codecs.encode(seen, "rot13"),
    urllib.parse.unquote(seen),
    html.unescape(seen),
    re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), seen),
    re.sub(r"\b(\w) (?=\w\b)", r"\1", seen),
    "".join(chr(ord(c) - 0xE0000) for c in text if ord(c) >> 8 == 0xE00),
    *map(_of_base64, re.findall(r"[A-Za-z0-9+/]{4,}={0,2}", seen)),
    *map(_of_hex, re.findall(r"\b(?:[0-9a-f]{2}){4,}\b", seen)),
  ]
  return [form.lower() for form in forms]


def _of_base64(text):
  try:
    return base64.b64decode(text, validate=True).decode("ascii")
  except (binascii.Error, UnicodeDecodeError):
    return ""


def _of_hex(text):
  return bytes.fromhex(text).decode("ascii", "replace")
