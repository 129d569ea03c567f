"""Connections: as many as requests under way, in small pools, none left."""

import asyncio
import os

from tests.clients import server
from userrl_jax.clients import pool

NUM = 2 * pool.POOL_SIZE + 5


def num_sockets():
  names = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
  return sum(
    os.readlink(name).startswith("socket:")
    for name in names
    if os.path.exists(name) or os.path.islink(name)
  )


def test_requests_are_spread_over_small_pools_and_connections_are_kept():
  async def run(running):
    async def ask():
      body = {"model": "m", "messages": [{"role": "user", "content": "Hm?"}]}
      url = f"{running.base_url}/chat/completions"
      return (await client.post(url, json=body)).status_code

    async with pool.connections() as client:
      # Another who opens them on this loop gets the same.
      async with pool.connections() as same:
        assert same is client
      for _ in range(3):
        assert {*await asyncio.gather(*(ask() for _ in range(NUM)))} == {200}
      pools = client._transport._pools
      sizes = [len(one._pool.connections) for one in pools]
      await ask()
      return sizes, client._transport._under_way

  before = num_sockets()
  with server.Server(lambda messages: "Yes.", crowd=NUM) as running:
    sizes, under_way = asyncio.run(run(running))
    # Kept from one question to the next, and by nobody twice.
    assert running.num_connections == sum(sizes) == NUM
    assert running.max_under_way == NUM
  assert sizes == [pool.POOL_SIZE, pool.POOL_SIZE, 5]
  assert under_way == [0, 0, 0]
  assert num_sockets() == before
