"""Measurements of a model: likelihood tasks, perplexity, instructions, edge cases and knowledge."""
