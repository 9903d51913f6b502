"""Reinforcement learning: rewards, rollouts, and the comparison of a policy before and after."""
