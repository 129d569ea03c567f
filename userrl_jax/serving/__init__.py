"""A model that answers chats: over HTTP, or as user in the same process.

folders       a run or published weights -> model, tokenizer, params
host          that model with an engine: ids in, sampled ids out
requests      the body of an OpenAI-style request -> a typed one, or why not
completions   a request -> sampled turns -> the body of a response, or chunks
app           paths, keys, and how many requests there may be
connections   HTTP/1.1 over sockets
"""
