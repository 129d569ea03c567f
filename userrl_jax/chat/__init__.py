"""Text to ids and back: tokenizers, the Qwen3 chat, tool calls, the ledger.

The only stage in which text and ids meet. Texts come in from gyms and users,
append-only id streams go out to agents and the engine. Knows no JAX.
"""
