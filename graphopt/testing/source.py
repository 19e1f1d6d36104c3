"""Where random choices come from: hypothesis, which shrinks them, or a seeded generator, which repeats them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Source(Protocol):
    """Draws choices. The first option is the simplest, and shrinking moves towards it."""

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        ...

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        ...


class RandomSource:
    """Choices of a seeded generator: the same seed gives the same graph.

    >>> RandomSource(7).choice("abc") == RandomSource(7).choice("abc")
    True
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def choice(self, options: Sequence[T]) -> T:
        return options[self._random.randrange(len(options))]


class HypothesisSource:
    """Choices of a hypothesis strategy, by the `draw` of a `@composite` function."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        from hypothesis import strategies

        self._draw = draw
        self._strategies = strategies

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(self._strategies.integers(low, high)))

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]
