"""Rewards, one a file: what a completion earns, or that it cannot be judged."""
