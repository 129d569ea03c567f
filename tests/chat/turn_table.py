"""What agents write: turns with a call of the gyms' tool, and with none.

ACCEPTED is {what is special: (turn, choice, content)}, REFUSED {what is
special: (turn, problem)}. A call is accepted where it can mean one thing only;
nothing is repaired, however near it comes.
"""

import json

from userrl_jax.chat import tokenizers

FORM = '{"name": "interact_with_env", "arguments": %s}'


def call(choice="action", content="x", **more):
  arguments = json.dumps({"choice": choice, "content": content, **more})
  return f"<tool_call>\n{FORM % arguments}\n</tool_call>"


def raw(body):
  return f"<tool_call>\n{body}\n</tool_call>"


def arguments(text):
  return raw(FORM % text)


ACCEPTED = {
  "canonical": (call("answer", "23"), "answer", "23"),
  "compact": (
    '<tool_call>{"name":"interact_with_env","arguments":{"choice":"search",'
    '"content":"test"}}</tool_call>',
    *("search", "test"),
  ),
  "spread out": (
    '<tool_call>  \n\n {\n "name" : "interact_with_env",\n "arguments":\n'
    ' { "choice": "action",\t"content": "1" } } \n </tool_call>',
    *("action", "1"),
  ),
  "key order": (
    raw(
      '{"arguments": {"content": "1", "choice": "action"}, '
      '"name": "interact_with_env"}'
    ),
    *("action", "1"),
  ),
  "escapes": (
    arguments(
      r'{"choice": "action", "content": "caf\u00e9 \"q\"\n\ud83d\ude42"}'
    ),
    *("action", 'café "q"\n🙂'),
  ),
  "lone surrogate": (
    arguments(r'{"choice": "action", "content": "a\ud800"}'),
    *("action", "a\ufffd"),
  ),
  "raw line break": (
    arguments('{"choice": "action", "content": "a\nb"}'),
    *("action", "a\nb"),
  ),
  "arguments as text": (
    arguments(json.dumps('{"choice": "action", "content": "1"}')),
    *("action", "1"),
  ),
  "integer": (
    arguments('{"choice": "answer", "content": -7}'),
    *("answer", "-7"),
  ),
  "long integer": (
    arguments('{"choice": "answer", "content": %s}' % ("9" * 6000)),
    *("answer", "9" * 6000),
  ),
  "float as written": (
    arguments('{"choice": "answer", "content": 1.50}'),
    *("answer", "1.50"),
  ),
  "empty content": (call("action", ""), "action", ""),
  "extra keys": (
    raw(
      '{"id": 1, ' + (FORM % '{"choice": "action", "content": "x", "z": 1}')[1:]
    ),
    *("action", "x"),
  ),
  "text around": (f"Sure: {call()} done.", "action", "x"),
  "end of turn": (call() + "<|im_end|>", "action", "x"),
  "after a thought": (f"<think>\nhm\n</think>\n\n{call()}", "action", "x"),
  "after a thought with a call": (
    f"<think>{call('answer')}</think>{call()}",
    *("action", "x"),
  ),
  "after a thought opened in the prompt": (
    f"hm {call('answer')}</think>{call()}",
    *("action", "x"),
  ),
  "other white space": (
    '<tool_call>\r\n\t{"name"\t:\r\n"interact_with_env","arguments":{"choice":'
    '"action","content":"x"}}\r\n\r\n</tool_call>\r\n',
    *("action", "x"),
  ),
  "nested quotes": (
    call("action", 'say "it\'s \\"two\\"" {"a": [1]}}'),
    *("action", 'say "it\'s \\"two\\"" {"a": [1]}}'),
  ),
  "escapes that need not be": (
    arguments(r'{"choice": "\u0061ction", "content": "a\/b\u002C\u0000"}'),
    *("action", "a/b,\0"),
  ),
  "arguments as spaced text": (
    arguments(json.dumps(' {"choice":"action",\n"content":2.0}\n')),
    *("action", "2.0"),
  ),
  "a list of one": (
    raw(f"[{FORM}]" % '{"choice": "action", "content": "[1"}'),
    *("action", "[1"),
  ),
  "fenced inside": (
    raw("```json\n%s\n```" % (FORM % '{"choice": "action", "content": "x"}')),
    *("action", "x"),
  ),
  "fenced inside, no language": (
    raw("```\n%s\n```" % (FORM % '{"choice": "action", "content": "```\n"}')),
    *("action", "```\n"),
  ),
  "fenced outside": (f"```json\n{call()}\n```", "action", "x"),
  "a stray closing before": (f"</tool_call>\n{call()}", "action", "x"),
  "prefix in content": (
    call("action", "[answer] 23"),
    *("action", "[answer] 23"),
  ),
  "think in content": (
    call("action", "a <think> b </think> c"),
    *("action", "a <think> b </think> c"),
  ),
}

REFUSED = {
  "empty": ("", "no_call"),
  "plain text": ("I would ask for the number.", "no_call"),
  "bare JSON": (FORM % '{"choice": "action", "content": "x"}', "no_call"),
  "in a thought": (f"<think>{call()}</think>Done.", "no_call"),
  "in an unclosed thought": (f"<think>\n{call()}", "no_call"),
  "in a thought opened in the prompt": (f"{call()}</think>Done.", "no_call"),
  "closing only": ("x\n</tool_call>", "no_call"),
  "no closing": (call().removesuffix("</tool_call>"), "unclosed"),
  "cut": ('<tool_call>\n{"name": "interact_wi', "unclosed"),
  "opened twice": (f"<tool_call>\n{call()}", "unclosed"),
  "empty body": (raw(""), "bad_json"),
  "half": (raw('{"name": "interact_with_env"'), "bad_json"),
  "python": (raw("{'name': 'interact_with_env'}"), "bad_json"),
  "trailing": (
    raw(FORM % '{"choice": "action", "content": "x"}' + " }"),
    "bad_json",
  ),
  "list": (raw("[]"), "bad_json"),
  "deep": (raw("[" * 100_000), "bad_json"),
  "not a number": (
    arguments('{"choice": "answer", "content": NaN}'),
    "bad_json",
  ),
  "trailing comma": (
    arguments('{"choice": "action", "content": "x",}'),
    "bad_json",
  ),
  "trailing comma outside": (
    raw('{"name": "interact_with_env", "arguments": {},}'),
    "bad_json",
  ),
  "python true": (
    arguments('{"choice": "action", "content": True}'),
    "bad_json",
  ),
  "python none": (raw('{"name": None}'), "bad_json"),
  "escaped apostrophe": (
    arguments(r"""{"choice": "action", "content": "it\'s"}"""),
    "bad_json",
  ),
  "unescaped quotes": (
    arguments('{"choice": "action", "content": "say "x""}'),
    "bad_json",
  ),
  "curly quotes": (
    arguments("{“choice”: “action”, “content”: “x”}"),
    "bad_json",
  ),
  "a brace too few": (
    raw('{"name": "interact_with_env", "arguments": {"choice": "action"}'),
    "bad_json",
  ),
  "braces of a template": (
    raw("{%s}" % (FORM % '{"choice": "action", "content": "x"}')),
    "bad_json",
  ),
  "comment": (raw(FORM % "{} // none"), "bad_json"),
  "text inside": (raw("Call: " + FORM % "{}"), "bad_json"),
  "no-break space": (raw("\u00a0" + FORM % "{}"), "bad_json"),
  "HTML escapes": (raw((FORM % "{}").replace('"', "&quot;")), "bad_json"),
  "a comma between two": (raw(f"{FORM}, {FORM}" % ("{}", "{}")), "bad_json"),
  "a list of names": (raw('["interact_with_env"]'), "bad_json"),
  "a list in a list": (raw(f"[[{FORM}]]" % "{}"), "bad_json"),
  "half a fence": (raw("```json\n" + FORM % "{}"), "bad_json"),
  "XML of other families": (
    raw(
      "<function=interact_with_env>\n<parameter=choice>\naction\n"
      "</parameter>\n</function>"
    ),
    "bad_json",
  ),
  "as in code": (
    raw('interact_with_env(choice="action", content="x")'),
    "bad_json",
  ),
  "a key twice": (
    arguments('{"choice": "action", "content": "x", "content": "y"}'),
    "bad_json",
  ),
  "a name twice": (
    raw('{"name": "x", "name": "interact_with_env", "arguments": {}}'),
    "bad_json",
  ),
  "a key twice in text": (
    arguments(json.dumps('{"choice": "action", "choice": "answer"}')),
    "bad_arguments",
  ),
  "fenced without markers": (
    "```json\n%s\n```" % (FORM % '{"choice": "action", "content": "x"}'),
    "no_call",
  ),
  "square markers": (call().replace("<", "[").replace(">", "]"), "no_call"),
  "end of turn before the closing": (
    call().removesuffix("</tool_call>") + "<|im_end|>",
    "unclosed",
  ),
  "closed by an opening": (
    call().removesuffix("</tool_call>") + "<tool_call>",
    "unclosed",
  ),
  "OpenAI's envelope": (
    raw('{"type": "function", "function": %s}' % (FORM % "{}")),
    "wrong_tool",
  ),
  "name in capitals": (
    raw('{"name": "Interact_With_Env", "arguments": {}}'),
    "wrong_tool",
  ),
  "name with a space": (
    raw('{"name": "interact_with_env ", "arguments": {}}'),
    "wrong_tool",
  ),
  "name no text": (raw('{"name": 5, "arguments": {}}'), "wrong_tool"),
  "other tool, bad arguments": (
    raw('{"name": "python", "arguments": []}'),
    "wrong_tool",
  ),
  "parameters for arguments": (
    raw('{"name": "interact_with_env", "parameters": {}}'),
    "bad_arguments",
  ),
  "arguments twice as text": (
    arguments(json.dumps(json.dumps('{"choice": "action", "content": "x"}'))),
    "bad_arguments",
  ),
  "arguments null": (arguments("null"), "bad_arguments"),
  "arguments empty": (arguments('""'), "bad_arguments"),
  "other tool": (raw('{"name": "python", "arguments": {}}'), "wrong_tool"),
  "no name": (raw("{}"), "wrong_tool"),
  "no arguments": (raw('{"name": "interact_with_env"}'), "bad_arguments"),
  "arguments no JSON": (arguments('"action x"'), "bad_arguments"),
  "arguments a list": (arguments('["action", "x"]'), "bad_arguments"),
  "no content": (arguments('{"choice": "action"}'), "bad_arguments"),
  "no choice": (arguments('{"content": "x"}'), "bad_arguments"),
  "null content": (
    arguments('{"choice": "action", "content": null}'),
    "bad_arguments",
  ),
  "true content": (
    arguments('{"choice": "action", "content": true}'),
    "bad_arguments",
  ),
  "list content": (
    arguments('{"choice": "action", "content": ["x"]}'),
    "bad_arguments",
  ),
  "unknown choice": (call("finish"), "unknown_choice"),
  "choice in capitals": (call("Action"), "unknown_choice"),
  "bracketed choice": (call("[action]"), "unknown_choice"),
}


def ids_of(text, tokenizer):
  """Encodes a text with its special strings as special ids."""
  ids = []
  while text:
    places = {s: text.find(s) for s in tokenizers.Special if s in text}
    special = min(places, key=places.get, default=None)
    before, _, text = text.partition(special) if special else (text, "", "")
    ids += tokenizer.encode(before)
    ids += [tokenizer.special_ids[special]] if special else []
  return ids
