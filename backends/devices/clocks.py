"""Vector clocks: whether a lane may read what another one wrote.

A lane counts its marks. Its clock holds, for each lane, the mark up to which it has waited; what a lane writes is
stamped with its next mark, and another lane may read it once its clock is there.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

Mark = dict[int, int]


@dataclass(frozen=True)
class Stamp:
    """Who wrote something, and before which of its marks."""

    lane: int
    count: int


@dataclass
class Clock:
    """What a lane knows of all lanes."""

    lane: int
    known: Mark = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def stamp(self) -> Stamp:
        """For what is written now."""
        return Stamp(self.lane, self.known.get(self.lane, 0) + 1)

    def record(self) -> Mark:
        """Set a mark; return what whoever waits for it will know."""
        with self._lock:
            self.known[self.lane] = self.known.get(self.lane, 0) + 1
            return dict(self.known)

    def wait(self, mark: Mark) -> None:
        """Know what a mark knows."""
        with self._lock:
            for lane, count in mark.items():
                self.known[lane] = max(self.known.get(lane, 0), count)

    def sees(self, stamp: Stamp) -> bool:
        """Whether what has the stamp is written, as far as this lane can know.

        >>> writer, reader = Clock(0), Clock(1)
        >>> stamp, mark = writer.stamp(), writer.record()
        >>> before = reader.sees(stamp)
        >>> reader.wait(mark)
        >>> before, reader.sees(stamp)
        (False, True)
        """
        return stamp.lane == self.lane or self.known.get(stamp.lane, 0) >= stamp.count
