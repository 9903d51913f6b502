"""Golden results of a shortened `cat` lifecycle: training curves, figures and digests of all weights."""
