"""Choosing a format for each layer: candidates, their sensitivity, and an integer program under a budget."""
