"""Text in, token arrays out; no torch."""
