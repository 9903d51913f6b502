"""The model: architecture, forward pass, initialization, and Hugging Face files."""
