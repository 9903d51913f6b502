"""The one training loop and the pure losses it minimises."""
