"""The server as a process: folders, keys, the real tokenizer, stopping."""

import asyncio
import dataclasses
import json
import signal
import socket
import time
import urllib.request

import jax
import openai
import pytest

from tests.serving import app_test
from tests.serving import requests_test
from tests.serving import small
from userrl_jax import checkpoint
from userrl_jax import config as config_lib
from userrl_jax import config_fields
from userrl_jax import serve
from userrl_jax import sharding
from userrl_jax.chat import messages as messages_lib
from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.models import qwen3
from userrl_jax.models import weights
from userrl_jax.serving import folders

KEY = "not-a-real-key"


def test_a_signal_finishes_what_is_under_way(tmp_path):
  folder = small.random_folder(tmp_path / "random")
  flags = ("--name=m", "--api_key_env=A_KEY")
  with small.served(folder, *flags, A_KEY=KEY) as (process, url):
    client = openai.OpenAI(api_key=KEY, base_url=url, max_retries=0)
    assert [model.id for model in client.models.list()] == ["m"]
    with pytest.raises(openai.AuthenticationError):
      client.with_options(api_key="x").models.list()
    assert url.startswith("http://127.0.0.1:")

    def health():
      with urllib.request.urlopen(f"{url.removesuffix('/v1')}/health") as reply:
        return json.load(reply)  # which needs no key

    assert health() == {"status": "ok", "model": "m", "pending": 0}
    port = int(url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(OSError):  # no other address of this machine
      socket.create_connection(("127.0.0.2", port), 5).close()

    async def stop_amid():
      asking = openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0)
      asked = [
        asyncio.create_task(
          asking.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": f"what is {i}?"}],
            max_tokens=180,
          )
        )
        for i in range(12)
      ]
      while health()["pending"] + sum(one.done() for one in asked) < 12:
        await asyncio.sleep(0.01)
      process.send_signal(signal.SIGTERM)
      return await asyncio.gather(*asked)

    replies = asyncio.run(stop_amid())
    assert process.wait(60) == 0
    left = process.stdout.read()
  assert len(replies) == 12 and all(r.choices for r in replies)
  assert "stopped\n" in left and KEY not in left


def test_a_second_signal_does_not_wait(tmp_path):
  folder = small.random_folder(tmp_path / "random")
  with small.served(folder, "--max_length=100000") as (process, url):
    client = openai.OpenAI(api_key="x", base_url=url, max_retries=0)
    client.chat.completions.create(
      model="random",
      messages=[{"role": "user", "content": "what?"}],
      stream=True,
    )
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)  # two at once would be taken for one
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0 and time.monotonic() - begun < 15
    assert "some were cut off" in process.stdout.read()


def write_run(folder, made, model, params):
  """Writes what a run leaves behind of its stages."""
  config = config_lib.Config(stages=("base", "grpo", "continued"))
  config.model.preset = "qwen3_tiny"
  config.model.num_layers = 1
  values = config_fields.to_dict(config)
  (folder / "checkpoints").mkdir(parents=True)
  for i, stage in enumerate(config.stages):
    with checkpoint.Store(folder / "checkpoints" / stage) as store:
      store.describe(made, values)
      store.save(7 + i, {"params": params(i)}, {})
  (folder / "config.json").write_text(json.dumps(values))


def test_a_run_and_its_stages_are_found(tmp_path):
  made = small.tokenizer()
  model = qwen3.PRESETS["qwen3_tiny"]
  model = dataclasses.replace(model, num_layers=1)
  params = lambda i: jax.jit(lambda k: qwen3.init(model, k))(jax.random.key(i))
  write_run(tmp_path / "mine", made, model, params)
  for path, name, which in (
    ("mine", "mine-grpo-8", 1),
    ("mine/checkpoints/continued", "continued-9", 2),
  ):
    source = folders.read(str(tmp_path / path), "--model")
    assert source.name == name
    assert source.model.num_ids == made.vocab_size
    assert source.chat.profile == "brief"
    loaded = source.load(sharding.make_mesh(config_lib.Mesh()))
    same = jax.tree.map(
      lambda a, b: bool((a == b).all()), loaded, params(which)
    )
    assert all(jax.tree.leaves(same))
  (tmp_path / "other").mkdir()
  for path, message in (
    ("", "got ''"),
    ("mine/checkpoints", "config.json"),
    ("other", "config.json"),
  ):
    with pytest.raises(ValueError, match=message):
      folders.read(str(tmp_path / path) if path else "", "--model")


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--model=nowhere",), "--model must be the folder"),
    (("--model=.", "--num_rows=0"), "--num_rows must be positive"),
    (("--model=.", "--port=70000"), "--port must be"),
    (("--model=.", "--api_key_env=NO_SUCH_VARIABLE"), "--api_key_env must"),
    (("--model=.", "--api_key_env=sk-12345"), "--api_key_env must"),
  ],
)
def test_a_wrong_flag_is_one_message(
  capsys, monkeypatch, tmp_path, flags, message
):
  monkeypatch.chdir(tmp_path)
  assert serve.main(flags) == 2
  told = capsys.readouterr()
  assert message in told.err and not told.out
  assert "sk-12345" not in told.err


@pytest.mark.slow
def test_the_real_tokenizer_with_tools(tmp_path, shared):
  made = tokenizers.load(shared / "qwen3_tokenizer", "huggingface")
  model = small.shape(151_936, 16)
  params = jax.jit(lambda k: qwen3.init(model, k))(jax.random.key(0))
  weights.save(tmp_path / "m", params, model, beside=made.save)
  host = small.host(tmp_path / "m", max_length=512)
  messages = [{"role": "user", "content": "What is the weather — in Zürich? 🌦"}]
  with app_test.Running(host) as running:
    client = running.client()
    ask = lambda **fields: client.chat.completions.create(
      model="m", messages=messages, max_tokens=24, temperature=0, **fields
    )
    reply = ask(tools=[requests_test.TOOL])
    streamed = list(ask(tools=[requests_test.TOOL], stream=True))
    quiet = ask(extra_body={"chat_template_kwargs": {"enable_thinking": False}})
  tools = [requests_test.TOOL]
  chat = chat_lib.Chat(made, "full")
  ids = chat.dialogue_ids(messages_lib.from_openai(messages), tools)
  assert reply.usage.prompt_tokens == len(ids)
  assert app_test.text_of(streamed) == reply.choices[0].message.content
  plain = chat.dialogue_ids(messages_lib.from_openai(messages))
  assert quiet.usage.prompt_tokens == len(plain) + 4  # an empty think block
