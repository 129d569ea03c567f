"""The Search gym: answer a question by looking things up.

The agent searches pages (`search`) and states what it found (`answer`). Where
pages come from is a retriever: an index of a made-up world, or the web. Whether
an answer is the true one is for rules or a model to say, with a plain bool.
Privileged: the answer, until a page or the agent itself has shown it.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any, Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms.search import index
from userrl_jax.gyms.search import scripted
from userrl_jax.gyms.search import web
from userrl_jax.gyms.search import world

MAX_ANSWER_CHARS = 100
MAX_TITLE_CHARS = 80
MAX_SNIPPET_CHARS = index.MAX_SNIPPET_CHARS
NUM_RESULTS = {world.WORLD: 5, world.TOWNS: 3, world.WEB: 5}  # of a search
REWARD_CORRECT = 1.0  # in every reward profile; all else is worth 0

NO_RESULTS = "No results."
NO_SEARCHES = "No searches left. Answer now."

_BRIEF = """\
Answer the question. search "mayor of Far Hamlet" finds pages. answer "Zeno" \
states the answer, in few words. {limits}"""

_FULL = """\
You talk to an environment through one tool, `interact_with_env`, and answer a \
question with its help.

The question is in the first message. What you have learnt elsewhere may not \
hold here, so look things up. Some questions need several facts, each of which \
is on a page of its own: what one page tells is what you search for next.

Every turn, call the tool once with a `choice` and its `content`:
- `search`: a few words to look for. The environment replies with the pages \
that fit best, each with a title and a piece of its text.
- `answer`: your answer, as short as can be: one name, number or date. The \
right one wins the game; of a wrong one you are told only that it is wrong. \
Several answers in one are wrong.

{limits} A call in another format is not played but takes a turn. Reason \
between <think> and </think> first, then call the tool. Before you search, \
find out which fact is missing first; search for that one alone.

Example: {{"choice": "search", "content": "mayor of Far Hamlet"}}
Example: {{"choice": "answer", "content": "Zeno"}}"""

_NO_ANSWER = re.compile(r"[{}\[\]<>\x00-\x1f\x7f]")
_ANSWER_HINT = "answer is one short name, number or date"


class User(Protocol):
  """Who knows the true answer and compares others with it."""

  async def equivalent(
    self, question: str, secret: Mapping[str, Any], answer: str
  ) -> bool:
    """Returns whether an answer is that of the secret, and it alone."""


class Retriever(Protocol):
  """Where pages come from. Raises `types.FaultError` where it fails."""

  async def search(self, query: str, k: int) -> Sequence[index.Hit]:
    """Returns the k pages at most that fit best, best first."""


@dataclasses.dataclass(frozen=True)
class State(base.State):
  """What the agent has used up and seen."""

  num_searches: int = 0
  num_wrong_answers: int = 0
  seen: int = 0  # names of the answer that a text has shown, as bits


class SearchGym(base.Gym):
  """Plays one question."""

  name = "search"
  choices = ("search", "answer")
  max_content_chars = 200
  max_observation_chars = 1300  # five pages

  def __init__(
    self,
    settings: config.Gyms,
    user: User | None = None,
    retriever: Retriever | None = None,
  ):
    """Makes a game without a task.

    Args:
      settings: of all gyms.
      user: who compares answers; None is the rules of `scripted`. One with a
        `passage` is of a run, whose searches pass through it.
      retriever: where pages come from; None is what the settings say.

    Raises:
      ValueError: when a setting does not fit the gym, or the web shall be
        searched and there is no key.
    """
    super().__init__(settings)
    own = settings.search
    for name, value in (
      ("answer_limit", own.answer_limit),
      ("search_limit", own.search_limit),
    ):
      if value < 0:
        raise ValueError(
          f"gyms.search.{name} must be at least 0 (0 is no limit), got {value}"
        )
    if own.source not in (_CORPUS, _WEB):
      raise ValueError(
        base.unknown("gyms.search.source", own.source, (_CORPUS, _WEB))
      )
    self._user: User = user or scripted.ScriptedUser()
    self._retriever = retriever
    if retriever is None and own.source == _WEB:
      self._retriever = web.Web(own, getattr(user, "passage", None))

  def system_prompt(self, profile: str) -> str:
    """Returns the rules of the game with its limits.

    Raises:
      ValueError: when there is no such profile.
    """
    prompt = base.check_profile({"full": _FULL, "brief": _BRIEF}, profile)
    return prompt.format(limits=_limits(self.settings))

  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state, and the question as first message.

    Raises:
      ValueError: when the task's answer cannot be found, or not be judged,
        under these settings.
    """
    self._secret = task.secret.reveal()
    self._question = task.public["question"]
    self._names = (self._secret["answer"], *self._secret["aliases"])
    corpus = self._secret["corpus"]
    if isinstance(self._user, scripted.ScriptedUser) and not self._user.knows(
      self._secret
    ):
      raise ValueError(
        f"rules cannot judge answers to task {task.id!r}, which is about the "
        "real world: set user.kind=endpoint, or gyms.tasks to generated or pack"
      )
    self._pages: Retriever
    if self._retriever is not None:
      if corpus != world.WEB and isinstance(self._retriever, web.Web):
        raise ValueError(
          f"the web knows nothing of task {task.id!r}, which is of the gym's "
          "own world: set gyms.search.source=corpus, or gyms.tasks to a folder"
        )
      self._pages = self._retriever
    elif corpus == world.WEB:
      raise ValueError(
        f"the gym's own pages say nothing about task {task.id!r}: set "
        "gyms.search.source=web and the key that it needs, or gyms.tasks to "
        "generated or pack"
      )
    else:
      self._pages = _Corpus(corpus)
    self._num_results = NUM_RESULTS[corpus]
    return self._read(State(task.id, seed), self._question), self._question

  async def play(
    self, state: State, action: types.Action
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a search or an answer."""
    content = action.content.strip()
    if action.choice == "search":
      return await self._search(state, content)
    return await self._answer(state, content)

  def undisclosed(self) -> tuple[str, ...]:
    """Returns the names of the answer that no page has shown."""
    if self.state is None:
      return ()
    seen = self.state.seen
    return tuple(n for i, n in enumerate(self._names) if not seen >> i & 1)

  async def _search(self, state: State, text: str) -> tuple[State, base.Reply]:
    limit = self.settings.search.search_limit
    if limit and state.num_searches >= limit:
      return state, base.Reply(NO_SEARCHES, "refused")
    hits = await self._pages.search(text, self._num_results)
    if not all(isinstance(hit, index.Hit) for hit in hits):
      raise types.FaultError(
        types.Fault.GYM_ERROR, "a retriever must return hits with texts"
      )
    state = dataclasses.replace(state, num_searches=state.num_searches + 1)
    listed = "\n".join(
      f"{number}. {_cut(hit.title, MAX_TITLE_CHARS)}: "
      f"{_cut(hit.snippet, MAX_SNIPPET_CHARS)}"
      for number, hit in enumerate(hits[: self._num_results], 1)
    )
    if not listed:
      return state, base.Reply(NO_RESULTS, "no_results")
    return self._read(state, listed), base.Reply(listed, "search")

  async def _answer(self, state: State, text: str) -> tuple[State, base.Reply]:
    if len(text) > MAX_ANSWER_CHARS or _NO_ANSWER.search(text):
      return state, base.malformed(_ANSWER_HINT)
    is_right = await self._user.equivalent(self._question, self._secret, text)
    if not isinstance(is_right, bool):
      raise types.FaultError(
        types.Fault.USER_UNPARSABLE,
        f"equivalent must return True or False, got {type(is_right).__name__}",
      )
    if is_right:
      every = (1 << len(self._names)) - 1
      state = dataclasses.replace(state, seen=every)
      reply = base.Reply(
        "Correct.", "correct", REWARD_CORRECT, terminated=True, success=True
      )
      return state, reply
    num_wrong = state.num_wrong_answers + 1
    state = dataclasses.replace(state, num_wrong_answers=num_wrong)
    is_last = num_wrong == self.settings.search.answer_limit
    text = "Wrong. No answers left." if is_last else "Wrong."
    return state, base.Reply(text, "wrong", terminated=is_last)

  def _read(self, state: State, text: str) -> State:
    """Returns the state after a text that the agent rightly reads."""
    seen = sum(1 << i for i, name in enumerate(self._names) if name in text)
    return dataclasses.replace(state, seen=state.seen | seen)


_CORPUS, _WEB = "corpus", "web"  # values of gyms.search.source


class _Corpus:
  """Pages of one of the gym's own worlds."""

  def __init__(self, corpus: str):
    self._index = index.of_corpus(corpus)

  async def search(self, query: str, k: int) -> Sequence[index.Hit]:
    return self._index.search(query, k)


def _cut(text: str, limit: int) -> str:
  """Returns a text on one line; what is too long ends in three dots."""
  text = " ".join(text.split())
  return text if len(text) <= limit else f"{text[: limit - 3].rstrip()}..."


def _limits(settings: config.Gyms) -> str:
  own = settings.search
  told = [f"You have {settings.max_turns} turns."]
  if own.search_limit:
    told.append(f"{own.search_limit} searches at most.")
  if own.answer_limit:
    noun = "answer loses" if own.answer_limit == 1 else "answers lose"
    told.append(f"{own.answer_limit} wrong {noun}.")
  return " ".join(told)
