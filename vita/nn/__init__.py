"""Mathematics only: the model and how it begins."""
