"""The documentation pages as tests: their blocks, a reader's files, and a terminal that runs their commands."""
