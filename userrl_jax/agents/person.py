"""A person as the agent: reads what a policy would read, types its actions.

The ledger stays empty: a person samples no ids. Everything else, rules, format
hints, turns and rewards, is as for any agent, so that scores compare.
"""

from userrl_jax import terminal as terminal_lib
from userrl_jax import types
from userrl_jax.agents import base
from userrl_jax.chat import ledger as ledger_lib
from userrl_jax.gyms import base as gyms


class PersonAgent:
  """Asks a person for each action, until it is one of the gym's choices."""

  def __init__(self, terminal: terminal_lib.Terminal):
    self.ledger = ledger_lib.Ledger()
    self._terminal = terminal
    self._choices: tuple[str, ...] = ()

  async def begin(
    self, system: str, first: str, choices: tuple[str, ...]
  ) -> None:
    self._choices = choices
    self._terminal.say(system)
    self._terminal.say(
      f"\nType {gyms.either(choices)} and what it says, on one line; "
      f"{terminal_lib.QUIT} leaves.\n"
    )
    self.observe(first)

  def has_room(self) -> bool:
    return True

  async def act(self) -> base.Reply:
    while True:
      line = await self._terminal.ask(f"{'/'.join(self._choices)}> ")
      choice, _, content = line.partition(" ")
      choice = choice.lower().rstrip(":")
      if choice not in self._choices:
        self._terminal.say(
          f"a line must begin with {gyms.either(self._choices)}, got {line!r}"
        )
        continue
      content = _unquoted(content.strip())
      if not content:
        content = _unquoted(await self._terminal.ask(f"{choice}: "))
      if content:
        break
      self._terminal.say(f"{choice} must say something, got nothing")
    action = types.Action(choice, content)
    return base.Reply(f"{choice} {content}", action)

  def observe(self, text: str) -> None:
    self._terminal.say(terminal_lib.quoted(text))

  def close(self) -> None:
    pass


def _unquoted(content: str) -> str:
  """Returns a content without the quotes that the rules write around one."""
  inner = content[1:-1]
  is_quoted = len(content) > 1 and content[0] == content[-1] == '"'
  return inner.strip() if is_quoted and '"' not in inner else content
