"""What a model knows, with intervals."""
