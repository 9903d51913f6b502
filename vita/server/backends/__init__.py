"""Other programs that compute the answers of a release: llama.cpp, vLLM and OpenAI-compatible endpoints.

A replica of such a release verifies, encodes, parses and filters as every replica. Only the tokens of the answers come
from the program (`engine_client`), over HTTP. `remote_scheduler` has the interface of `vita.infer.scheduler`.
"""
