"""Searching the web: what is sent, what comes of each reply, no key told."""

import asyncio
import gc
from http import server as http_server
import json
import pathlib
import subprocess
import sys
import threading
import time
import warnings

import pytest

from tests.clients import server as endpoint_server
from userrl_jax import config
from userrl_jax import config_gyms
from userrl_jax import gyms
from userrl_jax import types
from userrl_jax import underway
from userrl_jax import users
from userrl_jax.gyms import contract
from userrl_jax.gyms import judging
from userrl_jax.gyms.search import generate
from userrl_jax.gyms.search import web
from userrl_jax.gyms.search import world

KEY = "hf_3f9aSecret"
RESULTS = {
  "organic": [
    {"title": "Lutetia", "snippet": "A town on the Seine.", "position": 1},
    {"title": "No text", "position": 2},
    {"title": "Rome", "snippet": "A town on the Tiber.", "position": 3},
  ],
  "answerBox": {"title": "Capital", "answer": "Lutetia"},
}


class Serper:
  """A server that answers with its replies in turn, the last one for ever."""

  def __init__(self, *replies, delay_s=0.0):
    self.requests = []
    self.num_connections = 0
    self.num_under_way = 0
    self.max_under_way = 0
    self._lock = threading.Lock()
    self._replies = list(replies)
    self._delay_s = delay_s
    self._stop = threading.Event()
    owner = self

    class Handler(http_server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def setup(self):
        super().setup()
        owner.num_connections += 1

      def do_POST(self):
        owner.handle(self)

      def log_message(self, *args):
        pass

    self._http = http_server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._http.daemon_threads = True
    self._http.handle_error = lambda *args: None
    self._thread = threading.Thread(
      target=self._http.serve_forever, args=(0.05,), daemon=True
    )
    self.url = f"http://127.0.0.1:{self._http.server_address[1]}/search"

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *error):
    self._stop.set()
    self._http.shutdown()
    self._http.server_close()
    self._thread.join()

  def handle(self, request):
    body = request.rfile.read(int(request.headers["Content-Length"]))
    with self._lock:
      self.requests.append((dict(request.headers), json.loads(body)))
      place = min(len(self.requests), len(self._replies)) - 1
      self.num_under_way += 1
      self.max_under_way = max(self.max_under_way, self.num_under_way)
    status, data, *headers = self._replies[place]
    self._stop.wait(self._delay_s)
    with self._lock:
      self.num_under_way -= 1
    if status == 0:  # hangs up
      request.close_connection = True
      return
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    request.send_response(status)
    request.send_header("Content-Length", str(len(data)))
    for name, value in headers:
      request.send_header(name, value)
    request.end_headers()
    if headers == [("X-Drips", "1")]:
      for byte in data:
        request.wfile.write(bytes([byte]))
        self._stop.wait(0.05)
    else:
      request.wfile.write(data)


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv("SERPER_API_KEY", KEY)


def search(*replies, query="capital of $x", k=5, timeout_s=30.0, delay_s=0.0):
  """Returns what a search came to, the server and the seconds it took."""
  with Serper(*replies, delay_s=delay_s) as running:
    settings = config_gyms.Search(
      source="web", web_url=running.url, timeout_s=timeout_s
    )
    start = time.monotonic()
    try:
      found = asyncio.run(web.Web(settings).search(query, k))
    except (types.FaultError, types.SetupError) as error:
      found = error
      assert KEY not in repr(error) and KEY not in str(error.__cause__)
    return found, running, time.monotonic() - start


def test_sends_query_number_and_key_and_returns_titles_with_texts():
  found, running, _ = search((200, RESULTS))
  headers, body = running.requests[0]
  assert body == {"q": "capital of $x", "num": 5}
  assert {k.lower(): v for k, v in headers.items()}["x-api-key"] == KEY
  assert [(hit.title, hit.snippet) for hit in found] == [
    ("Capital", "Lutetia"),
    ("Lutetia", "A town on the Seine."),
    ("Rome", "A town on the Tiber."),
  ]
  assert len(search((200, RESULTS), k=2)[0]) == 2
  assert search((200, {}))[0] == () == search((200, {"organic": []}))[0]


@pytest.mark.parametrize(
  "failure",
  [
    (500, b""),
    (503, b"busy", ("Retry-After", "0.1")),
    (429, {"message": "slow down"}),
    (0, b""),
    (200, b"<html>"),
    (200, b'{"organic": ['),
    (200, b"[" * 100_000),
    (200, []),
    (200, {"organic": {}}),
    (200, {"organic": [7]}),
    (200, b"\xff\xfe"),
  ],
)
def test_what_may_mend_itself_is_tried_again(failure):
  found, running, _ = search(failure, failure, (200, RESULTS))
  assert len(found) == 3 and len(running.requests) == 3
  found, _, _ = search(failure, timeout_s=0.6)
  assert found.fault == types.Fault.GYM_ERROR


@pytest.mark.parametrize("status", [400, 402, 422, 302])
def test_what_does_not_mend_is_a_fault_at_once(status):
  found, running, _ = search((status, {"message": f"bad {KEY}"}))
  assert found.fault == types.Fault.GYM_ERROR and f"{status}" in found.detail
  assert len(running.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_stops_the_run(status):
  found, running, _ = search((status, {"message": f"wrong key {KEY}"}))
  assert isinstance(found, types.SetupError)
  assert f"HTTP {status}" in str(found) and "SERPER_API_KEY" in str(found)
  assert len(running.requests) == 1


@pytest.mark.parametrize(
  "reply, delay_s, timeout_s",
  [
    ((200, RESULTS), 60.0, 1.0),
    ((200, b" " * 900, ("X-Drips", "1")), 0.0, 1.0),  # never silent for long
    ((503, b"", ("Retry-After", "60")), 0.0, 30.0),  # there is no time for it
  ],
)
def test_a_search_ends_by_its_deadline(reply, delay_s, timeout_s):
  found, running, took_s = search(reply, timeout_s=timeout_s, delay_s=delay_s)
  assert found.fault == types.Fault.GYM_ERROR and took_s < 25
  assert len(running.requests) <= 1


def test_a_reply_without_end_is_cut():
  found, _, _ = search((200, b" " * (web._MAX_BODY_BYTES + 2)))
  assert found.fault == types.Fault.GYM_ERROR and "megabyte" in found.detail


def test_half_a_character_can_be_searched_for():
  found, running, _ = search((200, RESULTS), query="a\ud800b")
  assert len(found) == 3 and running.requests[0][1]["q"] == "a?b"


def test_games_share_connections_and_do_not_wait_for_each_other():
  with Serper((200, RESULTS), delay_s=0.2) as running:
    settings = config_gyms.Search(
      source="web", web_url=running.url, timeout_s=60.0
    )

    async def many():
      for _ in range(2):
        await asyncio.gather(
          *(web.Web(settings).search(f"q{i}", 5) for i in range(16))
        )

    with warnings.catch_warnings():
      warnings.simplefilter("error", ResourceWarning)
      asyncio.run(many())
      asyncio.run(many())  # another loop, another pool
      gc.collect()
    assert len(running.requests) == 64 and running.num_connections <= 40
    assert 4 <= running.max_under_way <= 16


@pytest.mark.parametrize(
  "change, message",
  [
    ({"api_key_env": "NO_SUCH_KEY"}, "environment variable NO_SUCH_KEY"),
    ({"api_key_env": KEY}, "must name a variable"),
    ({"web_url": "http://example.org/search"}, "web_url must look like"),
    ({"web_url": f"https://{KEY}@example.org"}, "web_url must look like"),
    ({"web_url": f"https://example.org/?key={KEY}"}, "web_url must look like"),
    ({"web_url": "ftp://localhost"}, "web_url must look like"),
    ({"web_url": "https://a:b:c"}, "web_url must look like"),
  ],
)
def test_settings_are_checked_when_a_game_is_made(change, message):
  own = config_gyms.Search(**{"source": "web", **change})
  with pytest.raises(types.SetupError, match=message) as caught:
    gyms.make("search", config.Gyms(search=own))
  assert KEY not in str(caught.value)


def test_a_key_that_is_no_header_is_refused(monkeypatch):
  monkeypatch.setenv("SERPER_API_KEY", "a b\nc")
  with pytest.raises(types.SetupError, match="printable ASCII"):
    web.Web(config_gyms.Search(source="web"))


def test_a_run_without_a_key_ends_before_anything_runs(root, tmp_path):
  recipe = tmp_path / "recipe.py"
  recipe.write_text(
    "from userrl_jax import config\n\n\n"
    "def get_config():\n"
    f"  c = config.Config(out_dir={str(tmp_path / 'run')!r})\n"
    "  c.gyms.names = ('search',)\n"
    "  c.gyms.search.source = 'web'\n"
    "  c.gyms.search.api_key_env = 'NO_SUCH_KEY'\n"
    "  return c\n"
  )
  done = subprocess.run(
    [sys.executable, "-m", "userrl_jax.train", f"--config={recipe}"],
    cwd=root,
    capture_output=True,
    text=True,
  )
  assert done.returncode != 0
  assert "NO_SUCH_KEY" in done.stderr and "Traceback" not in done.stderr
  assert not pathlib.Path(tmp_path / "run" / "metrics.jsonl").exists()


def test_plays_a_released_question_with_the_web_and_a_model():
  """All that is real about such a game, but for the two far ends."""
  task = generate.task(
    "b1", "test", 2, "b1", "Capital?", "Paris", ("Capital?",), world.WEB
  )

  async def complete(messages):
    return json.dumps({"same": "Lutetia" in messages[1]["content"]})

  with Serper((200, RESULTS)) as running:
    own = config_gyms.Search(source="web", web_url=running.url)
    settings = config.Gyms(search=own, tasks="somewhere")
    gym = gyms.make("search", settings, judging.Judge(complete, 0))
    moves = iter(
      [("search", "capital"), ("answer", "Rome"), ("answer", "Lutetia")]
    )
    record = contract.play(gym, task, lambda texts: types.Action(*next(moves)))
    ours = generate.tasks(0, (1,), "test", 1)[0]
    with pytest.raises(ValueError, match=r"gyms\.search\.source=corpus"):
      contract.play(gyms.make("search", settings), ours, None)
  assert record.texts[1].splitlines()[1] == "2. Lutetia: A town on the Seine."
  assert record.score == 1 and record.texts[2:] == ["Wrong.", "Correct."]


def test_searches_of_a_run_are_booked_recorded_and_played_offline(
  tmp_path, monkeypatch
):
  file = str(tmp_path / "answers.sqlite")
  task = generate.task(
    "b1", "test", 2, "b1", "Capital?", "Paris", ("Capital?",), world.WEB
  )

  def play(mode, url, folder, max_calls=0):
    user = users.User(
      config.User(kind="endpoint", base_url=url, model="m"),
      caps=config.Budget(max_calls=max_calls),
      recorded=config.Recording(mode, "" if mode == "live" else file),
      folder=folder,
    )

    async def episode():
      async with user.opened() as judge:
        gym = gyms.make("search", settings, judge)
        with underway.episode("e", "search"):
          await gym.reset(task, 0)
          return [
            (await gym.step(types.Action("search", text))).observation.text
            for text in ("capital", "the capital")
          ]

    return asyncio.run(episode()), user.take_counts()

  with (
    endpoint_server.Server(lambda messages: "ready") as model,
    Serper((500, b""), (200, RESULTS)) as running,
  ):
    own = config_gyms.Search(source="web", web_url=running.url)
    settings = config.Gyms(search=own, tasks="somewhere")
    told, counts = play("record", model.base_url, tmp_path / "run")
    assert len(running.requests) == 3 and counts["user/searches"] == 3
    spent = json.loads((tmp_path / "run" / "budget.json").read_text())["spent"]
    assert [(x["role"], x["gym"], x["calls"]) for x in spent] == [
      ("search", "search", 3)
    ]
    with pytest.raises(types.BudgetSpent, match=r"budget\.max_calls=1"):
      play("live", model.base_url, tmp_path / "capped", max_calls=1)
    assert len(running.requests) == 4
  monkeypatch.delenv("SERPER_API_KEY")
  again, counts = play("replay", model.base_url, None)  # nobody listens there
  assert again == told and "Lutetia" in told[0]
  assert counts["user/replayed"] == 2 and "user/searches" not in counts
