"""Golden results of a shortened `cat` life: every training curve, every figure and the digests of all weights."""
