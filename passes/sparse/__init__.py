"""Lowering sparse weights: where they are, what storing them sparsely gains, what was done."""
