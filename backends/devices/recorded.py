"""Launches of a step recorded once, on memory of its own, and replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.backends.devices.driver import Driver, Function, Lane


class Recorded:
    """A function whose launches are recorded at its first call and replayed from then on.

    The inputs of a call are copied to where those of the first one were. What is given is a copy, since the next call
    writes to the same memory.
    """

    def __init__(self, driver: Driver, function: Function, lane: Lane, stored: Sequence[torch.Tensor]) -> None:
        self._driver, self._function, self._lane, self._stored = driver, function, lane, list(stored)
        self._inputs: list[torch.Tensor] = []
        self._outputs: Sequence[torch.Tensor] = ()
        self._replay: Any = None

    def __call__(self, given: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run on the inputs of the step; what it stores is known."""
        if self._replay is None:
            self._inputs = [torch.empty_like(tensor).copy_(tensor) for tensor in given]
            self._replay, self._outputs = self._driver.capture(self._launch, self._lane)
        for static, tensor in zip(self._inputs, given):
            static.copy_(tensor)
        given.clear()
        self._replay()
        return [output.clone() for output in self._outputs]

    def _launch(self) -> list[torch.Tensor]:
        return self._driver.call(self._function, [*self._inputs, *self._stored], self._lane)
