"""The page of a made-up run in headless Chromium: nothing complains."""

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


def _opened(page, folder):
  """Returns what the browser's console says of a page, and its picture."""
  picture = folder / f"{page.stem}.png"
  done = subprocess.run(
    [
      *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu"),
      *("--enable-logging=stderr", "--virtual-time-budget=2000"),
      *("--window-size=1280,2400", f"--user-data-dir={folder / 'profile'}"),
      *(f"--screenshot={picture}", page.as_uri()),
    ],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return re.findall(r"CONSOLE.*", done.stderr), picture


def test_the_console_stays_empty_and_there_is_a_picture(tmp_path):
  page = report.write(report_test.make_run(tmp_path / "run"))
  said, picture = _opened(page, tmp_path)
  assert said == []
  assert picture.stat().st_size > 20_000  # a white page has a few thousand


def test_the_page_of_an_experiment_opens_as_well(tmp_path):
  made = experiment_report_test.make_members(tmp_path / "runs")
  page, _ = sweep_report.write(
    tmp_path, made, experiment_report_test.EXPERIMENT
  )
  said, picture = _opened(page, tmp_path)
  assert said == []
  assert picture.stat().st_size > 20_000


def test_a_page_that_complains_is_noticed(tmp_path):
  page = tmp_path / "broken.html"
  page.write_text("<script>console.error('seen'); nothing.there</script>")
  said, _ = _opened(page, tmp_path)
  assert len(said) == 2 and "seen" in said[0] and "ReferenceError" in said[1]
