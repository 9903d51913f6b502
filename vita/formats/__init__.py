"""Formats in which models come in and go out: the Hugging Face Hub, GGUF, Ollama and MLX."""
