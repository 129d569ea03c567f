"""Parity with `transformers`: equal weights give equal logits.

Tests of the golden logits need no torch: weights come from a seed, and
`golden_logits.json` has what transformers made of them. All others run both
models side by side and are skipped unless torch is installed. With it, write
the golden file again by

  USERRL_WRITE_GOLDEN=1 python -m pytest tests/models/parity_test.py -k golden
"""

import dataclasses
import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from userrl_jax.models import published
from userrl_jax.models import qwen3
from userrl_jax.models import weights

TOLERANCE = 2e-4  # of logits
NEAR_TIE = 1e-3  # gap between the two largest logits
NUM_NEW = 64
LENGTHS = (37, 5, 20)
CACHE_LENGTH = 128
GOLDEN = pathlib.Path(__file__).parent / "golden_logits.json"


def _cut(preset, rope_theta=1e6):
  """Returns a published shape with its ratios, but few and narrow layers."""
  config = qwen3.PRESETS[preset]
  group = config.num_heads // config.num_kv_heads
  return dataclasses.replace(
    config,
    vocab_size=97,
    hidden_size=40,
    num_layers=3,
    num_heads=2 * group,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=72,
    rope_theta=rope_theta,
  )


FAMILIES = {
  "qwen3_0_6b": _cut("qwen3_0_6b"),
  "qwen3_1_7b": _cut("qwen3_1_7b"),
  "qwen3_4b": _cut("qwen3_4b"),
  "qwen3_8b": _cut("qwen3_8b"),
  "qwen3_14b": _cut("qwen3_14b"),
  "qwen3_32b": _cut("qwen3_32b"),
  "qwen3_4b at 5e6": _cut("qwen3_4b", 5e6),
  "qwen3_8b at 1e4": _cut("qwen3_8b", 1e4),
}
# Group size, tied, RoPE base.
assert {
  (c.num_heads // c.num_kv_heads, c.tie_embeddings, c.rope_theta)
  for c in FAMILIES.values()
} == {
  (2, True, 1e6),
  (4, True, 1e6),
  (4, False, 1e6),
  (5, False, 1e6),
  (8, False, 1e6),
  (4, True, 5e6),
  (4, False, 1e4),
}


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers(torch):
  return pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=FAMILIES)
def theirs(request, torch, transformers):
  """A model of transformers whose logits vary by about one."""
  c = FAMILIES[request.param]
  config = transformers.Qwen3Config(
    vocab_size=c.vocab_size,
    hidden_size=c.hidden_size,
    num_hidden_layers=c.num_layers,
    num_attention_heads=c.num_heads,
    num_key_value_heads=c.num_kv_heads,
    head_dim=c.head_dim,
    intermediate_size=c.intermediate_size,
    tie_word_embeddings=c.tie_embeddings,
    rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
    attn_implementation="eager",
  )
  model = transformers.Qwen3ForCausalLM(config).float().eval()
  generator = torch.Generator().manual_seed(1)
  with torch.no_grad():
    for tensor in model.parameters():
      noise = torch.randn(tensor.shape, generator=generator)
      if tensor.ndim == 1:
        tensor.copy_(1 + 0.2 * noise)
      else:
        tensor.copy_(noise / tensor.shape[1] ** 0.5)
  return c, model


@pytest.fixture(scope="module")
def ours(theirs, shardings, tmp_path_factory):
  """Our params, of the shards that transformers wrote."""
  config, model = theirs
  folder = tmp_path_factory.mktemp("published")
  model.save_pretrained(folder, max_shard_size="30KB")
  assert len(list(folder.glob("*.safetensors"))) > 1
  assert published.read_config(folder) == config
  return weights.load(folder, config, shardings(config))


@pytest.fixture(scope="module")
def sequences(theirs):
  rng = np.random.default_rng(0)
  return [rng.integers(0, theirs[0].vocab_size, n) for n in LENGTHS]


def _their_logits(torch, model, tokens_T):
  with torch.no_grad():
    return model(torch.tensor(tokens_T)[None]).logits[0].numpy()


def _their_continuation(torch, model, tokens_T):
  """Returns NUM_NEW greedy ids, and by how much each was the likeliest."""
  ids_1T = torch.tensor(tokens_T)[None]
  out = model.generate(
    ids_1T,
    attention_mask=torch.ones_like(ids_1T),
    max_new_tokens=NUM_NEW,
    do_sample=False,
    return_dict_in_generate=True,
    output_logits=True,
  )
  top_N2 = np.sort([logits_1V[0].numpy() for logits_1V in out.logits])[:, -2:]
  ids_N = out.sequences[0, len(tokens_T) :].numpy()
  return ids_N, top_N2[:, 1] - top_N2[:, 0]


@functools.partial(jax.jit, static_argnames="config")
def _packed_logits(params, config, *inputs):
  hidden_BTD, _ = qwen3.forward(params, config, *inputs)
  return qwen3.logits(params, config, hidden_BTD)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def _cached_logits(params, config, tokens_BT, positions_BT, cache):
  layout = qwen3.sampling_layout(params, config)
  hidden_BTD, cache = qwen3.forward(
    layout, config, tokens_BT, positions_BT, cache=cache
  )
  return qwen3.logits(params, config, hidden_BTD), cache


def _logits_of_packed_rows(params, config, sequences):
  """Packs two sequences into a row, the others into the next."""
  T = sum(map(len, sequences[:2])) + 6
  inputs = np.zeros((3, 2, T), np.int32)  # tokens, positions, segments
  places = []
  for i, (row, start) in enumerate(((0, 0), (0, len(sequences[0])), (1, 3))):
    stop = start + len(sequences[i])
    inputs[:, row, start:stop] = (
      sequences[i],
      np.arange(stop - start),
      np.full(stop - start, i + 1),
    )
    places.append((row, slice(start, stop)))
  logits_BTV = np.asarray(_packed_logits(params, config, *inputs))
  return [logits_BTV[row, place] for row, place in places]


def _read_into_cache(params, config, sequences):
  """Returns each sequence's logits, and the cache; rows end in padding."""
  shape = (len(sequences), max(map(len, sequences)))
  tokens_BT = np.zeros(shape, np.int32)
  positions_BT = np.full(shape, CACHE_LENGTH, np.int32)
  for row, tokens_T in enumerate(sequences):
    tokens_BT[row, : len(tokens_T)] = tokens_T
    positions_BT[row, : len(tokens_T)] = np.arange(len(tokens_T))
  cache = qwen3.init_cache(config, len(sequences), CACHE_LENGTH)
  logits_BTV, cache = _cached_logits(
    params, config, tokens_BT, positions_BT, cache
  )
  logits_BTV = np.asarray(logits_BTV)
  return [l[: len(t)] for l, t in zip(logits_BTV, sequences)], cache  # noqa: E741


def _continue(params, config, sequences):
  """Returns the [B, NUM_NEW] most likely tokens, one after the other."""
  logits, cache = _read_into_cache(params, config, sequences)
  tokens_B = np.array([logits_TV[-1].argmax() for logits_TV in logits])
  lengths_B = np.array([len(tokens_T) for tokens_T in sequences])
  tokens = [tokens_B]
  for n in range(NUM_NEW - 1):
    logits_B1V, cache = _cached_logits(
      params, config, tokens_B[:, None], lengths_B[:, None] + n, cache
    )
    tokens_B = np.asarray(jnp.argmax(logits_B1V[:, 0], -1))
    tokens.append(tokens_B)
  return np.stack(tokens, 1)


def test_packed_rows(torch, theirs, ours, sequences):
  config, model = theirs
  got = _logits_of_packed_rows(ours, config, sequences)
  for got_TV, tokens_T in zip(got, sequences, strict=True):
    want_TV = _their_logits(torch, model, tokens_T)
    assert 0.5 < want_TV.std() < 3
    print(f"logits differ by at most {np.abs(got_TV - want_TV).max():.1e}")
    np.testing.assert_allclose(got_TV, want_TV, rtol=0, atol=TOLERANCE)


def test_padded_rows_of_a_cache(torch, theirs, ours, sequences):
  config, model = theirs
  got, _ = _read_into_cache(ours, config, sequences)
  for got_TV, tokens_T in zip(got, sequences, strict=True):
    want_TV = _their_logits(torch, model, tokens_T)
    np.testing.assert_allclose(got_TV, want_TV, rtol=0, atol=TOLERANCE)


def test_greedy_continuations(torch, theirs, ours, sequences):
  config, model = theirs
  near_ties = 0
  got_BN = _continue(ours, config, sequences)
  for got_N, tokens_T in zip(got_BN, sequences, strict=True):
    want_N, gaps_N = _their_continuation(torch, model, tokens_T)
    (differ,) = np.nonzero(got_N != want_N)
    if differ.size:
      gap = gaps_N[differ[0]]
      assert gap < NEAR_TIE, f"token {differ[0]}: gap {gap}"
      near_ties += 1
  print(f"{near_ties} of {len(sequences)} rows part at a near-tie")
  assert near_ties <= 1


@pytest.mark.parametrize("dtype", weights.DTYPES)
def test_what_we_save_they_load(
  torch, transformers, theirs, ours, sequences, tmp_path, dtype
):
  config, model = theirs
  folder = tmp_path / "ours"
  weights.save(folder, ours, config, dtype=dtype, max_shard_bytes=20_000)
  assert len(list(folder.glob("*.safetensors"))) > 1
  found, report = transformers.AutoModelForCausalLM.from_pretrained(
    folder,
    dtype=torch.float32,
    attn_implementation="eager",
    output_loading_info=True,
  )
  assert not any(report.values()), report
  assert type(found) is type(model)
  rounded = {
    name: tensor.to(getattr(torch, dtype)).float()
    for name, tensor in model.state_dict().items()
  }
  for name, tensor in found.state_dict().items():
    assert torch.equal(tensor, rounded[name]), name
  if dtype == "float32":
    np.testing.assert_array_equal(
      _their_logits(torch, found, sequences[0]),
      _their_logits(torch, model, sequences[0]),
    )


def _golden_models():
  """Yields name, shape, seed and input of the golden models."""
  for seed, (name, family) in enumerate(FAMILIES.items(), 1):
    config = dataclasses.replace(family, vocab_size=61, num_layers=2)
    yield name, config, seed, np.arange(12) * 7 % config.vocab_size


@pytest.fixture
def golden_folder(make_tensors, write_folder, tmp_path):
  def write(config, seed):
    tensors = make_tensors(config, seed)
    return write_folder(tmp_path / str(seed), config, tensors)

  return write


def test_golden_logits_are_theirs(torch, transformers, golden_folder):
  found = {}
  for name, config, seed, tokens_T in _golden_models():
    model = transformers.AutoModelForCausalLM.from_pretrained(
      golden_folder(config, seed),
      dtype=torch.float32,
      attn_implementation="eager",
    ).eval()
    ids_N, gaps_N = _their_continuation(torch, model, tokens_T)
    found[name] = {
      "tokens": tokens_T.tolist(),
      "logits": _their_logits(torch, model, tokens_T),
      "greedy": ids_N.tolist(),
      "gaps": gaps_N,
    }
  if os.environ.get("USERRL_WRITE_GOLDEN"):
    for values in found.values():
      for key in ("logits", "gaps"):
        values[key] = np.round(values[key].astype(float), 6).tolist()
    text = json.dumps(found).replace("], [", "],\n[").replace("}, ", "},\n")
    GOLDEN.write_text(text + "\n")
    return
  golden = json.loads(GOLDEN.read_text())
  assert found.keys() == golden.keys()
  for name, values in found.items():
    assert values["greedy"] == golden[name]["greedy"]
    for key in ("logits", "gaps"):
      np.testing.assert_allclose(
        values[key], golden[name][key], rtol=0, atol=1e-5
      )


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_logits_and_continuations_are_ours(
  golden_folder, shardings, name
):
  golden = json.loads(GOLDEN.read_text())
  assert list(golden) == list(FAMILIES)
  golden = golden[name]
  [(config, seed, tokens_T)] = [m[1:] for m in _golden_models() if m[0] == name]
  folder = golden_folder(config, seed)
  assert published.read_config(folder) == config
  params = weights.load(folder, config, shardings(config))
  assert golden["tokens"] == tokens_T.tolist()
  want_TV = np.array(golden["logits"])
  assert want_TV.std() > 0.5
  rows = [tokens_T, tokens_T[:5], tokens_T[:9]]
  packed = _logits_of_packed_rows(params, config, rows)
  padded, _ = _read_into_cache(params, config, rows)
  for got_TV in (*packed, *padded):
    np.testing.assert_allclose(
      got_TV, want_TV[: len(got_TV)], rtol=0, atol=TOLERANCE
    )
  got_N, want_N = _continue(params, config, rows)[0], np.array(golden["greedy"])
  assert len(want_N) == NUM_NEW and len(set(golden["greedy"])) > 1
  (differ,) = np.nonzero(got_N != want_N)
  assert not differ.size or golden["gaps"][differ[0]] < NEAR_TIE
