"""GGUF files, the model format of llama.cpp: writing, quantization, and reading."""
