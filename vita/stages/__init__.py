"""One module per stage of a model's life; stages meet only through artifacts."""
