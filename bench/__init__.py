"""Vita measured side by side with other tools, on this machine, in one run.

Every figure is one JSON line: {"figure", "value", "unit", "peer", "peer_value", "ratio", "spread"}.
Nothing here is part of the installed package; `README.md` beside this file says how to run each.
"""
