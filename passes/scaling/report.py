"""What is said of layers that keep their scales."""

from __future__ import annotations

from graphopt.passes.scaling.spaces import Spaces

_SHOWN = 3


def kept_notes(spaces: Spaces) -> list[str]:
    """A sentence for each reason why layers keep the scale of what they read."""
    notes = []
    for reason, names in spaces.reasons().items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        keeps = "keeps the scale of what it reads" if len(names) == 1 else "keep the scales of what they read"
        notes.append(f"{', '.join(names[:_SHOWN])}{more} {keeps}: {reason}")
    return notes
