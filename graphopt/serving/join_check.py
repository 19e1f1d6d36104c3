"""Whether requests that ran together got what they would have got alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from graphopt.errors import GraphOptError, GraphOptWarning
from graphopt.ir import Graph
from graphopt.validation import output_check

Run = Callable[[Sequence[Any]], list[Any]]


class JoinCheck:
    """Checks the first batch that joins requests, and the first that fills some up, against the graph in float64.

    Types tell where rows are, and not whether a model mixes them: one that normalizes over the batch, or reads what
    requests were filled up with, would give a request other numbers in other company. If so, what must not be done
    (`joins`, `pads`) is not done again, and a warning says so.
    """

    def __init__(self, graph: Graph, run: Run) -> None:
        self._graph, self._run = graph, run
        self.joins = self.pads = True
        self._joined_right = self._padded_right = False

    def is_due(self, padded: bool) -> bool:
        """Whether a batch of this kind has yet to prove itself."""
        return not (self._padded_right if padded else self._joined_right)

    def __call__(self, padded: bool, requests: Sequence[Sequence[Any]], answers: Sequence[Sequence[Any]]) -> bool:
        """Return True if the answers of a joined batch are those of its requests alone."""
        for request, answer in zip(requests, answers, strict=True):
            wrong = self._wrong(request, answer)
            if wrong is not None:
                self._forbid(padded, wrong)
                return False
        self._joined_right = True
        self._padded_right |= padded
        return True

    def _wrong(self, request: Sequence[Any], answer: Sequence[Any]) -> str | None:
        try:
            check = output_check(self._graph, request)
        except GraphOptError as error:  # the interpreter cannot say
            return f"it cannot be checked ({error})"
        wrong = check(answer)
        return wrong if wrong is not None and check(self._run(request)) is None else None

    def _forbid(self, padded: bool, wrong: str) -> None:
        if padded:
            self.pads = False
        else:
            self.joins = False
        what = "filled up to a common length" if padded else "joined"
        warnings.warn(
            f"requests are no longer {what}: a request gets another result than alone ({wrong})", GraphOptWarning, 2
        )
