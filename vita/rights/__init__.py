"""Data rights: which models a document reached, and its erasure."""
