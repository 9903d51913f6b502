"""Rephrasing of documents by a language model: prompts, requests, checks and the share of rewrites."""
