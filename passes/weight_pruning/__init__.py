"""Pruning of single weights: which layers there are, how weights are scored, and in what pattern they go."""
