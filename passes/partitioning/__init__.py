"""Assigning nodes to devices: the problem in numbers, solvers, bounds, and what they do to a graph."""
