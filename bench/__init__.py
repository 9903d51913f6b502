"""Benchmarks that compare Vita with other tools on one machine in one run.

Every figure is one JSON line: {"figure", "value", "unit", "peer", "peer_value", "ratio", "spread"}.
Nothing here is part of the installed package; `README.md` in this folder describes how to run each program.
"""
