"""Small models in folders: random ones, and one that says what it is told to.

The latter is a chain: attention and the feed-forward add nothing, embeddings
are one-hot, and the head maps each id to the next. So a real model in a real
folder gives a reply that a test knows.
"""

import asyncio
import contextlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from userrl_jax.chat import qwen3 as chat_lib
from userrl_jax.chat import tokenizers
from userrl_jax.models import qwen3
from userrl_jax.models import weights
from userrl_jax.serving import folders
from userrl_jax.serving import host as host_lib

CALL = '\n{"name": "find", "arguments": {"word": "kite"}}\n'
VERDICT = '{"answer": "Yes"}'
RIGHT = '{"right": true}'
NUM_ROWS = 8


def tokenizer(phrases=()):
  # Less one of them it is none of a run's own, whose prompts are pieces.
  usual = [phrase for phrase in chat_lib.PHRASES if phrase != "system\n"]
  return tokenizers.train_sentencepiece(
    ["a bird in the hand", "what is it?"] * 3,
    512,
    [*usual, CALL, VERDICT, RIGHT, *phrases],
  )


def shape(vocab_size, hidden_size=32):
  return qwen3.Config(
    vocab_size=vocab_size,
    hidden_size=hidden_size,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    tie_embeddings=False,
  )


def random_folder(folder, seed=0):
  """Writes a random model; what it says depends on all that it read."""
  made = tokenizer()
  model = shape(made.vocab_size)
  params = jax.jit(lambda key: qwen3.init(model, key))(jax.random.key(seed))
  # Random heads repeat themselves; these choose sharply.
  params = jax.tree.map(lambda x: x, params)
  params["head"]["kernel"] = params["head"]["kernel"] * 50
  return _save(folder, params, model, made)


def published_folder(folder, text):
  """Writes a random model as Qwen3 is published, its tokenizer made of a text.

  Args:
    folder: to write.
    text: file that has the words.
  """
  made = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE())
  level = hf_tokenizers.pre_tokenizers.ByteLevel
  made.pre_tokenizer = level(add_prefix_space=False)
  made.decoder = hf_tokenizers.decoders.ByteLevel()
  trainer = hf_tokenizers.trainers.BpeTrainer(
    vocab_size=1000,
    initial_alphabet=sorted(level.alphabet()),
    show_progress=False,
  )
  made.train([str(text)], trainer)
  made.add_special_tokens([s.value for s in tokenizers.Special])
  values = {"tokenizer_class": "PreTrainedTokenizerFast"}

  def beside(to):
    made.save(str(to / "tokenizer.json"))
    (to / "tokenizer_config.json").write_text(json.dumps(values))

  model = shape(made.get_vocab_size())
  params = jax.jit(lambda key: qwen3.init(model, key))(jax.random.key(0))
  weights.save(folder, params, model, beside=beside)


def chain_folder(folder, *pieces, phrases=()):
  """Writes a model that says these pieces after any prompt, then stops.

  Args:
    folder: to write.
    *pieces: texts of one id each, or special tokens, none twice; several in
      a tuple are as likely as each other.
    phrases: further pieces of the tokenizer.
  """
  ways = [(p,) if isinstance(p, str) else p for p in pieces]
  made = tokenizer([*phrases, *(p for way in ways for p in way if p[0] != "<")])
  size = made.vocab_size
  model = shape(size, size)
  zeros = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32),
    jax.eval_shape(lambda: qwen3.init(model, jax.random.key(0))),
  )
  zeros["embed"]["embedding"] = np.eye(size, dtype=np.float32)
  zeros["final_norm"]["scale"] += 1
  opening = chat_lib.Chat(made, "full").prompt_ids("", "x", ())
  chain = [[opening[-1]]]
  chain += [[_one_id(made, piece) for piece in way] for way in ways]
  chain.append([made.im_end_id])
  # A local user's chat closes a think block before its turn.
  closed = chat_lib.Chat(made, "full", thinking=False).prompt_ids("", "x", ())
  chain[0].append(closed[-1])
  for now, after in itertools.pairwise(chain):
    for one in now:
      zeros["head"]["kernel"][one, after] = 1.0
  return _save(folder, jax.tree.map(jnp.asarray, zeros), model, made)


def host(folder, max_length=256):
  source = folders.read(str(folder), "--model")
  return host_lib.Host(source, NUM_ROWS, max_length, "--model")


@contextlib.contextmanager
def served(folder, *flags, **environment):
  """Runs the server in a process of its own; yields it and its URL."""
  root = pathlib.Path(__file__).resolve().parent.parent.parent
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "userrl_jax.serve", f"--model={folder}"),
      *("--port=0", "--max_length=256", f"--num_rows={NUM_ROWS}", *flags),
    ],
    cwd=root,
    env=dict(os.environ) | environment,
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    line = process.stdout.readline()
    found = re.search(r"http://\S+/v1", line)
    assert found, line
    yield process, found[0]
  finally:
    process.kill()
    process.wait()
    process.stdout.close()


def run(host, work):
  """Runs a coroutine while the model samples."""

  async def main():
    async with host.opened():
      return await work

  return asyncio.run(main())


def body(text="what is it?", **fields):
  messages = [{"role": "user", "content": text}]
  return json.dumps({"model": "m", "messages": messages} | fields).encode()


def _one_id(made, piece):
  if piece in made.special_ids:
    return made.special_ids[piece]
  (one,) = made.encode(piece)
  return one


def _save(folder, params, model, made):
  weights.save(folder, params, model, dtype="float32", beside=made.save)
  return folder
