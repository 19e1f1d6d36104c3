"""Structured pruning: which channels go, and the smaller graph without them."""
