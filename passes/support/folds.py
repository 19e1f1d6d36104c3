"""Which samples a choice is fitted to, and which ones judge it."""

from __future__ import annotations


def fold_of(sample: int) -> int:
    """The half that a sample belongs to, 0 or 1, by its number: the Thue-Morse sequence.

    Whatever alternates in the data, with a period of a power of two say, is in both halves alike.

    >>> [fold_of(sample) for sample in range(8)]
    [0, 1, 1, 0, 1, 0, 0, 1]
    """
    return sample.bit_count() % 2
