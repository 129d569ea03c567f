"""The state machine of the Tau gym: serve a user with tools on real records.

The agent talks to the user (`action`), calls tools (`answer`) and looks up what
tools there are (`search`). A user, rules or a model, replies with a typed
verdict; whether a request has ended well is decided here, by the records: what
a user believes neither pays nor ends a game that is not won. Privileged: the
user's instruction, what the user wants next, and where the records must end up.
"""

import dataclasses
import random
import re
from typing import Any, Protocol

from userrl_jax import config
from userrl_jax import types
from userrl_jax.gyms import base
from userrl_jax.gyms import rules
from userrl_jax.gyms.tau import calls
from userrl_jax.gyms.tau import prompts
from userrl_jax.gyms.tau import scenario
from userrl_jax.gyms.tau import scripted
from userrl_jax.gyms.tau import shop
from userrl_jax.gyms.tau import store
from userrl_jax.gyms.tau import taubench
from userrl_jax.gyms.tau import worlds

MAX_MESSAGE_CHARS = 200  # to a user of our shop
MAX_NUMBERS = 3  # in a message that tells what was asked for
MAX_STOPS = 3  # of a user who is wrongly content; the last one ends the game
THANKS = "Thanks."
BYE = "Thanks, bye."
TRANSFERRED = "The user was transferred."

_MESSAGE_HINT = f"a message has at most {MAX_MESSAGE_CHARS} characters"
_ORDER_ID = re.compile(r"#?\bw\d+\b", re.I)
_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class User(Protocol):
  """Who wants something; raises `types.FaultError` where it fails."""

  async def turn(self, scene: scripted.Scene, message: str) -> scripted.Said:
    """Returns what the user replies to a message, and what it means."""


@dataclasses.dataclass(frozen=True)
class State(base.State):
  """What has become of the records and of the requests."""

  changes: str = store.UNCHANGED  # canonical JSON of the changed records
  user_id: str = ""  # identified
  looked: list[str] = dataclasses.field(default_factory=list)  # records seen
  intent: int = 0  # which request is being served
  agreed: int = 0  # requests whose change the user said yes to, as bits
  told: list[str] = dataclasses.field(default_factory=list)  # outputs, of it
  num_breaches: int = 0  # changes without a yes
  num_stops: int = 0
  has_listing: bool = False
  history: list[str] = dataclasses.field(default_factory=list)  # what was said


class TauGym(base.Gym):
  """Serves one user."""

  name = "tau"
  choices = types.CHOICES
  talk = "action"
  max_observation_chars = 900

  def __init__(self, settings: config.Gyms, user: User | None = None):
    """Makes a game without a task, with a user by rules if none is given.

    Raises:
      ValueError: when a setting does not fit the gym.
    """
    super().__init__(settings)
    if not 0 <= settings.tau.unclosed_reward <= 1:
      raise ValueError(
        "gyms.tau.unclosed_reward must be in [0, 1], got "
        f"{settings.tau.unclosed_reward}"
      )
    self._user: User = user or scripted.ScriptedUser()

  def system_prompt(self, profile: str) -> str:
    """Returns the rules of the game for the levels and limits in play.

    Raises:
      ValueError: when there is no such profile.
    """
    return prompts.system_prompt(self.settings, profile)

  def start(self, task: types.Task, seed: int) -> tuple[State, str]:
    """Returns the first state and what the user asks for.

    Raises:
      ValueError: when a released task lacks its records or a model as user.
    """
    self._world: worlds.World
    if "record" in task.secret.reveal():
      self._found = scenario.of_task(task)
      self._world = shop.shop(self._found.is_signed_in)
      first = self._found.opening
    else:
      if isinstance(self._user, scripted.ScriptedUser):
        raise ValueError(
          f"rules cannot play the user of task {task.id!r}, which is not of "
          "the gym's own shop: set user.kind=endpoint, or gyms.tasks to "
          "generated or pack"
        )
      self._world, self._found = taubench.open(task, self.settings.tau.checkout)
      first = f"{self._world.policy}\n\n{self._found.opening}"
      self.max_observation_chars = taubench.MAX_CHARS  # type: ignore[misc]
    is_signed_in = self._found.is_signed_in
    state = State(
      task.id,
      seed,
      user_id=self._found.user_id if is_signed_in else "",
      agreed=int(is_signed_in),
      history=[f"user: {self._found.opening}"],
    )
    return state, first

  def out_of_turns(self, step: types.Step) -> types.Step:
    """Pays for a game that turns ran out of; see `base.Gym.out_of_turns`.

    With everything done but the user's last word, the outcome is `unclosed`,
    the reward `gyms.tau.unclosed_reward`.
    """
    if not self._is_all_reached(self.state):
      return step
    reward = self.settings.tau.unclosed_reward * self._payment(self.state)
    info = {**step.info, "outcome": "unclosed"}
    return dataclasses.replace(step, reward=float(reward), info=info)

  async def play(
    self, state: State, action: types.Action
  ) -> tuple[State, base.Reply]:
    """Returns the state and the reply after a message, call or look-up."""
    content = action.content.strip()
    if action.choice == "search":
      return self._search(state, content.lower())
    if action.choice == "answer":
      return self._call(state, content)
    return await self._talk(state, content)

  def undisclosed(self) -> tuple[str, ...]:
    """Returns the instruction, later requests, and the records to reach."""
    if self.state is None:
      return ()
    intents = self._found.intents
    goals = {intent.goal for intent in intents} - {store.UNCHANGED}
    later = (intent.request for intent in intents[self.state.intent + 1 :])
    return (self._found.instruction, *later, *sorted(goals))

  def false_reply(
    self, action: types.Action, reply: base.Reply, rng: random.Random
  ) -> str:
    """Returns a No for a Yes, or other digits; see `base.Gym`."""
    if reply.outcome == "agreed":
      return scripted.NO
    found = _DIGITS.search(reply.text) if reply.outcome == "talk" else None
    if found is None:
      return ""
    other = str((int(found[0]) + rng.randint(1, 8)) % 10 ** len(found[0]))
    digits = other.rjust(len(found[0]), "1")
    return f"{reply.text[: found.start()]}{digits}{reply.text[found.end() :]}"

  def _search(self, state: State, page: str) -> tuple[State, base.Reply]:
    if page == "tools":
      if state.has_listing:
        return state, base.Reply("You have the list.", "repeated")
      state = dataclasses.replace(state, has_listing=True)
      return state, base.Reply(prompts.listing(self._world.tools), "listing")
    if page == "policy":
      return state, base.Reply(self._world.policy, "policy")
    if page == "help":
      return state, base.Reply(prompts.HELP, "help")
    return state, base.Reply("search takes tools, policy or help.", "no_page")

  def _call(self, state: State, text: str) -> tuple[State, base.Reply]:
    try:
      call = calls.read(text, self._world.tools)
    except ValueError as error:
      return state, base.malformed(str(error))
    if call.name not in {tool.name for tool in self._world.tools}:
      return state, base.Reply(f"Unknown tool {call.name}.", "unknown_tool")
    before = worlds.Situation(state.changes, state.user_id)
    outcome = self._world.run(self._found.rows, before, call)
    after = outcome.situation
    has_changed = after.changes != state.changes
    is_breach = has_changed and not self._is_agreed(state, call)
    looked = dict.fromkeys((*state.looked, *outcome.looked))
    state = dataclasses.replace(
      state,
      changes=after.changes,
      user_id=after.user_id,
      looked=list(looked),
      num_breaches=state.num_breaches + is_breach,
    )
    if outcome.is_transfer:
      return self._transferred(state)
    kind = "error" if outcome.is_error else "write" if has_changed else "read"
    limit = self.max_observation_chars
    return state, base.Reply(outcome.text[:limit] or "(nothing)", kind)

  async def _talk(self, state: State, text: str) -> tuple[State, base.Reply]:
    is_ours = self._found.source == "shop"
    if is_ours and len(text) > MAX_MESSAGE_CHARS:
      return state, base.malformed(_MESSAGE_HINT)
    state = self._heard(state, text)
    scene = self._scene(state)
    said = await self._user.turn(scene, text)
    self._check(said)
    history = [*state.history, f"agent: {text}", f"user: {said.text}"]
    state = dataclasses.replace(state, history=history)
    if said.agrees:
      agreed = state.agreed | 1 << state.intent
      state = dataclasses.replace(state, agreed=agreed)
    if not said.is_settled:
      return state, base.Reply(said.text, "agreed" if said.agrees else "talk")
    if not _has_ended_well(scene):
      num_stops = state.num_stops + 1
      state = dataclasses.replace(state, num_stops=num_stops)
      is_over = num_stops >= MAX_STOPS
      return state, base.Reply(said.text, "unfounded", terminated=is_over)
    if state.intent + 1 < len(self._found.intents):
      request = self._found.intents[state.intent + 1].request
      text = f"{THANKS} {request}"
      state = dataclasses.replace(
        state,
        intent=state.intent + 1,
        told=[],
        history=[*history[:-1], f"user: {text}"],
      )
      return state, base.Reply(text, "next")
    return state, self._end(state, BYE)

  def _transferred(self, state: State) -> tuple[State, base.Reply]:
    """Returns the end by a transfer, which pays only where it is right."""
    scene = self._scene(state)
    is_right = (
      scene.intent.expect == "transfer"
      and state.intent + 1 == len(self._found.intents)
      and scene.is_informed
      and scene.is_reached
    )
    if is_right:
      return state, self._end(state, TRANSFERRED)
    return state, base.Reply(TRANSFERRED, "transferred", terminated=True)

  def _end(self, state: State, text: str) -> base.Reply:
    payment = self._payment(state)
    outcome = "served" if payment else "breach"
    return base.Reply(text, outcome, payment, True, bool(payment))

  def _payment(self, state: State) -> float:
    """Returns what a game that ended well pays.

    Profile `default` pays nothing once a change was made without a yes; the
    others look at the records alone, as tau-bench does.
    """
    is_strict = self.settings.reward_profile == "default"
    return 0.0 if is_strict and state.num_breaches else 1.0

  def _is_agreed(self, state: State, call: calls.Call) -> bool:
    """Returns whether the user said yes to a call that changes records."""
    if self._found.source != "shop":
      return True  # whether it was is not recorded there
    order_id = str(call.arguments.get("order_id", "")).lstrip("#").upper()
    return any(
      state.agreed >> number & 1
      and scenario.TOOL_OF.get(intent.verb) == call.name
      and intent.order_id == order_id
      for number, intent in enumerate(self._found.intents)
    )

  def _heard(self, state: State, text: str) -> State:
    """Returns the state after the outputs that a message tells are noted.

    In our shop, where each is found in a record, only what the agent has looked
    up counts, and a message full of numbers tells nothing.
    """
    intent = self._found.intents[state.intent]
    if self._found.source == "shop":
      numbers = set(_NUMBER.findall(_ORDER_ID.sub(" ", text)))
      is_dump = len(numbers) > MAX_NUMBERS or len(scripted.read(text).whys) > 1
      if is_dump or intent.look not in state.looked:
        return state
    told = [o for o in intent.outputs if o in state.told or _tells(text, o)]
    return dataclasses.replace(state, told=told)

  def _scene(self, state: State) -> scripted.Scene:
    intent = self._found.intents[state.intent]
    return scripted.Scene(
      found=self._found,
      intent=intent,
      is_reached=state.changes == intent.goal,
      is_informed=not intent.look or intent.look in state.looked,
      is_told=set(intent.outputs) <= set(state.told),
      history=tuple(state.history),
    )

  def _is_all_reached(self, state: State) -> bool:
    """Returns whether only the user's last word is missing."""
    scene = self._scene(state)
    is_last = state.intent + 1 == len(self._found.intents)
    is_done = scene.intent.expect == "change" or bool(scene.intent.outputs)
    return is_last and is_done and _has_ended_well(scene)

  def _check(self, said: Any) -> None:
    limit = self.max_observation_chars
    if (
      not isinstance(said, scripted.Said)
      or type(said.is_settled) is not bool
      or type(said.agrees) is not bool
      or not isinstance(said.text, str)
      or not 0 < len(said.text.strip()) <= len(said.text) <= limit
    ):
      # What a backend says may hold a secret, so it is not repeated.
      raise types.FaultError(
        types.Fault.USER_UNPARSABLE,
        f"a user must reply with a scripted.Said of 1 to {limit} characters",
      )


def _has_ended_well(scene: scripted.Scene) -> bool:
  """Returns whether the records and what was told are as the user wants."""
  return (
    scene.intent.expect != "transfer"
    and scene.is_reached
    and scene.is_informed
    and scene.is_told
  )


def _tells(text: str, output: str) -> bool:
  """Returns whether a message holds an output as whole words."""
  words, found = rules.tokens(text.replace(",", "")), rules.tokens(output)
  size = len(found)
  return any(words[i : i + size] == found for i in range(len(words)))
