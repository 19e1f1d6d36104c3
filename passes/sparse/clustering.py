"""Orders of rows in which neighbours share their columns, so that blocks of them hold few zeros.

A block of h rows is stored for each column in which any of them is not zero: Σ over blocks of |union of the supports|.
The order is greedy: a block starts with the fullest row that is left, and takes the row that adds the fewest columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Live = NDArray[np.bool_]
Order = NDArray[np.int64]


def gathered(live: Live, height: int) -> Order:
    """An order of the rows of `live` [rows, columns] in which blocks of `height` rows store least.

    >>> gathered(np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool), 2).tolist()
    [0, 2, 1, 3]
    """
    counts = live.sum(1).astype(np.int64)
    left = np.ones(len(live), bool)
    order: list[int] = []
    while left.any():
        chosen = int(np.where(left, counts, -1).argmax())
        union = np.zeros(live.shape[1], bool)
        shared = np.zeros(len(live), np.int64)
        for _ in range(min(height, int(left.sum()))):
            new = live[chosen] & ~union
            union |= new
            shared += live[:, new].sum(1)
            left[chosen] = False
            order.append(chosen)
            chosen = int(np.where(left, counts - shared, np.iinfo(np.int64).max).argmin())
    return np.array(order, np.int64)


def stored(live: Live, height: int) -> int:
    """How many numbers blocks of `height` rows hold, in the order of the rows. A last block may be lower."""
    padded = np.zeros((-(-len(live) // height) * height, live.shape[1]), bool)
    padded[: len(live)] = live
    return int(padded.reshape(-1, height, live.shape[1]).any(1).sum()) * height
