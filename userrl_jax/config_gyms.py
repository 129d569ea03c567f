"""Knobs that only one gym has: `config.Gyms` holds one of each."""

import dataclasses


@dataclasses.dataclass
class Function:
  """What is special to the Function gym."""

  answer_limit: int = 0  # wrong answers that lose; 0 is no limit


@dataclasses.dataclass
class Intention:
  """What is special to the Intention gym."""

  patience: int = 0  # questions that uncover nothing and lose; 0 is no limit


@dataclasses.dataclass
class Persuade:
  """What is special to the Persuade gym."""

  # The first message of levels 2 and 3 tells why the user holds the claim.
  show_argument: bool = True
  # Stances, of seven, that one turn can win; 0 is no limit. It concerns models
  # that play the user: rules move two at most, and cannot be won with 1.
  max_gain: int = 2


@dataclasses.dataclass
class Search:
  """What is special to the Search gym."""

  answer_limit: int = 3  # wrong answers that lose; 0 is no limit
  search_limit: int = 5  # searches of an episode; 0 is no limit
  source: str = "corpus"  # of pages: corpus (the gym's own), or web
  web_url: str = "https://google.serper.dev/search"
  api_key_env: str = "SERPER_API_KEY"  # web: variable of the environment
  timeout_s: float = 10.0  # web: one search, with all its tries


@dataclasses.dataclass
class Telepathy:
  """What is special to the Telepathy gym."""

  guess_limit: int = 1  # wrong guesses that lose; 0 is no limit


@dataclasses.dataclass
class Travel:
  """What is special to the Travel gym."""

  outage_every: int = 5  # every n-th search finds no database; 0 is never
  # Idle messages until the user volunteers a wish; 0 is never.
  reveal_after: int = 3


@dataclasses.dataclass
class Tau:
  """What is special to the Tau gym."""

  # Pays, in [0, 1], when turns run out with all done but the user's last word.
  unclosed_reward: float = 0.0
  # For released tasks: a folder of tau-bench, whose tools are run as they are.
  checkout: str = ""


@dataclasses.dataclass
class Turtle:
  """What is special to the Turtle gym."""

  answer_limit: int = 2  # retellings until the game ends; 0 is no limit
  step_penalty: float = 0.0  # times the turn's number, off its reward
