"""Vita takes a language model through its whole life, in one file and one command."""

__version__ = "0.1.0"
