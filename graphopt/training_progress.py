"""The progress bar of training."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """One bar over all epochs on standard error, with the present loss and score.

    shown: whether to show it; None: on a terminal.
    """

    def __init__(self, epochs: int, *, shown: bool | None = None) -> None:
        self._epochs = epochs
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._bar: Any = None
        self._task: Any = None
        self._score = ""

    def __enter__(self) -> Progress:
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._epochs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def batch(self, epoch: int, count: int, batches: int | None, loss: float) -> None:
        """`count` batches of an epoch are done; `batches` is how many it has, if that is known."""
        if self._bar is not None:
            done = epoch - 1 + (min(count / batches, 1.0) if batches else 0.0)
            text = f"epoch {epoch}/{self._epochs}  loss {loss:.4g}{self._score}"
            self._bar.update(self._task, completed=done, description=text)

    def epoch(self, epoch: int, score: float | None) -> None:
        """An epoch is done."""
        if self._bar is not None:
            self._score = "" if score is None else f"  score {score:.4g}"
            self._bar.update(self._task, completed=epoch)
