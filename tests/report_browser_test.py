"""The page of a made-up run in headless Chromium: nothing complains.

In light and in dark, and it asks for nothing beside itself.
"""

import json
import re
import shutil
import subprocess

import pytest

from tests import experiment_report_test
from tests import report_test
from userrl_jax import report
from userrl_jax import sweep_report

BROWSER = next(
  filter(
    None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
  ),
  None,
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="Chromium is not there")


COLOURS = {"light": (), "dark": ("--force-dark-mode",)}


def _opened(page, folder, colours="light"):
  """Returns what the console says of a page, its picture, what it asked for."""
  picture, log = folder / f"{page.stem}_{colours}.png", folder / "net.json"
  done = subprocess.run(
    [
      *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu"),
      *("--enable-logging=stderr", "--virtual-time-budget=2000"),
      *("--window-size=1280,2400", f"--user-data-dir={folder / 'profile'}"),
      *("--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}"),
      *COLOURS[colours],
      *(f"--screenshot={picture}", page.as_uri()),
    ],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  asked = {
    event["params"]["url"]
    for event in json.loads(log.read_text())["events"]
    # What the browser wants for itself has no page that it comes from.
    if event.get("params", {}).get("initiator", "not an origin")
    != "not an origin"
  }
  return re.findall(r"CONSOLE.*", done.stderr), picture, asked


@pytest.mark.parametrize("colours", COLOURS)
def test_the_console_stays_empty_and_there_is_a_picture(tmp_path, colours):
  page = report.write(report_test.make_run(tmp_path / "run"))
  said, picture, asked = _opened(page, tmp_path, colours)
  assert said == [] and asked == set()
  assert picture.stat().st_size > 20_000  # a white page has a few thousand


@pytest.mark.parametrize("colours", COLOURS)
def test_the_page_of_an_experiment_opens_as_well(tmp_path, colours):
  made = experiment_report_test.make_members(tmp_path / "runs")
  page, _ = sweep_report.write(
    tmp_path, made, experiment_report_test.EXPERIMENT
  )
  said, picture, asked = _opened(page, tmp_path, colours)
  assert said == [] and asked == set()
  assert picture.stat().st_size > 20_000


def test_a_page_that_complains_is_noticed(tmp_path):
  page = tmp_path / "broken.html"
  page.write_text("<script>console.error('seen'); nothing.there</script>")
  said, _, _ = _opened(page, tmp_path)
  assert len(said) == 2 and "seen" in said[0] and "ReferenceError" in said[1]


@pytest.mark.parametrize("colours", COLOURS)
def test_a_page_sees_its_colours_and_what_it_asks_for_is_noticed(
  tmp_path, colours
):
  page = tmp_path / "asking.html"
  page.write_text(
    "<script>if (matchMedia('(prefers-color-scheme: dark)').matches)"
    " console.log('dark')</script><img src='http://127.0.0.1:9/seen.png'>"
  )
  said, _, asked = _opened(page, tmp_path, colours)
  assert any('"dark"' in line for line in said) == (colours == "dark")
  assert asked == {"http://127.0.0.1:9/seen.png"}
