"""What rules make of questions and retellings."""

import asyncio

import pytest

from userrl_jax.gyms.turtle import generate
from userrl_jax.gyms.turtle import pack
from userrl_jax.gyms.turtle import scripted
from userrl_jax.gyms.turtle import story
from userrl_jax.gyms.turtle import world

USER = scripted.ScriptedUser()
SON = story.of_task(
  generate.task(
    "t",
    "train",
    2,
    "Tom",
    "cup",
    {"who": "son", "why": "lost", "where": "mill"},
    {"who": ("son", "aunt", "boss"), "why": ("lost", "dead", "sick")},
  )
)
PACK = {task.id: story.of_task(task) for task in pack.read()}
ROLL = PACK["pack-L1-train-roll"]  # husband dead, roll for his grave
NOTE = PACK["pack-L3-train-note"]
WINDOW = PACK["pack-L3-dev-window"]


def ask(tale, question):
  return asyncio.run(USER.yes_no(tale, question)).value


def grade(tale, text):
  return asyncio.run(USER.grade(tale, text))


@pytest.mark.parametrize(
  "question, verdict",
  [
    ("Is it the son?", "Yes"),
    ("Is it the aunt?", "No"),
    ("Isn't it the son?", "Yes"),
    ("Is it not the son?", "No"),
    ("It is not the aunt, right?", "Yes"),
    ("Is the son lost?", "Yes"),
    ("Is the son missing?", "Yes"),
    ("Is the son dead?", "No"),
    ("Is the aunt lost?", "No"),
    ("Is somebody lost?", "Yes"),
    ("Was it at the mill?", "Yes"),
    ("Was the son at the mill?", "Yes"),
    ("Was the son at the lake?", "No"),
    ("Was he lost at the lake?", "No"),
    ("Is it a dream?", "No"),
    ("Is it the son or the aunt?", "Several"),
    ("Is it not the aunt, the boss, the cook or the maid?", "Several"),
    ("son aunt boss maid cook friend?", "Several"),
    ("Dead, blind, deaf, a spy, a ghost, a film or a dog?", "Several"),
    ("Is it a Tuesday?", "Maybe"),
    ("Who is it?", "Unclear"),
    ("Why is the son lost?", "Unclear"),
    ("the son", "Unclear"),
    ("Tell me about the son.", "Unclear"),
  ],
)
def test_questions_about_a_generated_story(question, verdict):
  assert ask(SON, question) == verdict


@pytest.mark.parametrize(
  "question, verdict",
  [
    ("Did somebody die?", "Yes"),
    ("Has somebody died?", "Yes"),
    ("Is her husband dead?", "Yes"),
    ("Is her husband alive?", "No"),
    ("Is her husband not alive?", "Yes"),
    ("Is it her brother?", "No"),
    ("Is the roll for a grave?", "Yes"),
    ("Does she feed the roll to a dog?", "No"),
    ("Is it about love?", "No"),
  ],
)
def test_questions_about_a_story_of_the_pack(question, verdict):
  assert ask(ROLL, question) == verdict


@pytest.mark.parametrize(
  "text, points",
  [
    ("The son is lost. It was at the mill.", (2, 2, 2)),
    ("The son is lost.", (2, 2, 0)),
    ("It is the son.", (2, 0, 0)),
    ("Somebody is lost at the mill.", (0, 0, 0)),  # no word of whom
    ("son lost mill", (2, 2, 2)),
    ("At the mill his son went missing.", (2, 2, 2)),
    ("The son is dead at the mill.", (2, 0, 2)),
    ("The son is not lost. It was at the mill.", (2, 0, 2)),
    ("Not the aunt but the son is lost.", (2, 2, 0)),
    ("The son is lost. The son is not lost.", (2, 0, 0)),
    ("It is not the son who is lost at the mill.", (0, 0, 0)),
    ("The son or the aunt is lost.", (0, 0, 0)),
    ("The son is lost, dead, sick.", (0, 0, 0)),
    ("It is not true that the son is lost.", (0, 0, 0)),
    ("I do not know whether the son is lost.", (0, 0, 0)),
    ("Nobody lost the son.", (2, 0, 0)),
    ("", (0, 0, 0)),
    ("?!", (0, 0, 0)),
  ],
)
def test_retellings_of_a_generated_story(text, points):
  assert grade(SON, text) == points


@pytest.mark.parametrize(
  "tale, text, points",
  [
    (ROLL, "Her husband died; the roll is for his tomb.", (2, 2)),
    (ROLL, "Somebody is dead.", (1, 0)),
    (ROLL, "Her husband killed nobody.", (0, 2)),  # no half for a denial
    (ROLL, "Nobody died.", (0, 0)),
    (ROLL, "Her husband or her son is in the grave.", (0, 0)),
    (ROLL, "She visits the grave of her husband and of her son.", (0, 0)),
    (NOTE, "The note was a fake.", (2, 0, 0, 0)),
    (NOTE, "The note was not a fake.", (0, 0, 0, 0)),
    (WINDOW, "The lady never moved.", (0, 0, 0, 2)),
    (WINDOW, "The lady is a statue.", (1, 0, 0, 0)),
  ],
)
def test_retellings_of_stories_of_the_pack(tale, text, points):
  assert grade(tale, text) == points


@pytest.mark.parametrize(
  "addition, most",
  [
    ("", 2),
    (" It was a ghost.", 2),
    (" It was a ghost. It was a dream.", 1),
    (" It was no ghost. It was no dream.", 2),
    (" It was a ghost, a dream, a film and a spy.", 0),
    (" Or maybe not, or perhaps.", 0),
    (" Maybe it was at sea.", 2),
  ],
)
def test_other_explanations_take_points_away(addition, most):
  text = f"The son is lost. It was at the mill.{addition}"
  assert grade(SON, text) == (most,) * 3


@pytest.mark.parametrize("tale", PACK.values(), ids=PACK)
def test_shotguns_and_scenes_earn_nothing(tale):
  twists = world.twists()
  count = len(tale.criteria)
  for text in (
    tale.title,
    tale.surface,
    f"{tale.title}. {tale.surface}",
    " ".join(world.words())[:700],
    ", ".join(twists),
    ", ".join(twists[::2]),
    ", ".join(twists[1::2]),
    f"{tale.retelling} {', '.join(twists)}",
  ):
    assert grade(tale, text) == (0,) * count, text


@pytest.mark.parametrize("tale", PACK.values(), ids=PACK)
def test_telling_of_another_story_earns_next_to_nothing(tale):
  weights = [criterion.weight for criterion in tale.criteria]
  for other in PACK.values():
    if other is not tale:
      points = grade(tale, other.retelling)
      assert sum(w * p for w, p in zip(weights, points)) <= 24, other.title


def test_no_pattern_is_empty():
  for text in ("", "|", "son |", "~"):
    with pytest.raises(ValueError, match="pattern must be words"):
      story.pattern(text)
