"""Progress bars, by the library rich: a line for each stage, with the pass, the check or the calibration at work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from graphopt.ir import Graph
from graphopt.passmanager.base import Pass
from graphopt.passmanager.instruments import BaseInstrument
from graphopt.passmanager.pipeline import Pipeline
from graphopt.passmanager.report import PassRecord, Report


class Progress(BaseInstrument):
    """Shows how far a compilation is: capture, passes, validation, calibration, engines.

    options: of `rich.progress.Progress`, as `console`, or `disable=True`. By default it writes to standard error.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._bar: Any = None
        self._passes: Any = None
        self._checks: Any = None

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show a stage whose length is not known."""
        bar = self._new_bar()
        task = bar.add_task(title, total=None)
        with bar:
            yield
            bar.update(task, total=1, completed=1)

    def start(self, pipeline: Pipeline, graph: Graph) -> None:
        self._bar = self._new_bar()
        self._passes = self._bar.add_task("passes", total=sum(1 for _ in pipeline.leaves()))
        self._checks = None
        self._bar.start()

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        self._bar.update(self._passes, description=f"passes: {pass_.name}")

    def before_validation(self, pass_: Pass, graph: Graph) -> None:
        if self._checks is None:
            self._checks = self._bar.add_task("validation", total=None)
        self._bar.update(self._checks, description=f"validation: {pass_.name}")

    def watch_calibration(self, inputs: Iterable[Any]) -> Iterable[Any]:
        return _Watched(inputs, self)

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        self._bar.advance(self._passes)
        if record.model_runs:
            self._bar.advance(self._checks, record.model_runs)

    def finish(self, report: Report) -> None:
        done = len(report.records)
        self._bar.update(self._passes, description="passes", total=done, completed=done)
        if self._checks is not None:
            runs = report.model_runs
            self._bar.update(self._checks, description="validation, model runs", total=runs, completed=runs)
        self._bar.stop()

    def _new_bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Bar(*columns, **{"console": Console(stderr=True), **self.options})


class _Watched:
    """Calibration inputs that move a bar as they are read; as often as the pass reads them, each time a bar."""

    def __init__(self, inputs: Iterable[Any], progress: Progress) -> None:
        self.inputs = inputs
        self.progress = progress

    def __iter__(self) -> Iterator[Any]:
        bar = self.progress._bar
        task = bar.add_task("calibration", total=len(self.inputs) if isinstance(self.inputs, Sized) else None)
        count = 0
        for count, given in enumerate(self.inputs, start=1):  # noqa: B007
            yield given
            bar.advance(task)
        bar.update(task, total=count, completed=count)


def stage(instruments: Sequence[Any], title: str) -> AbstractContextManager[None]:
    """Show a stage outside the pass manager, if one of the instruments is a `Progress`."""
    shown = next((one for one in instruments if isinstance(one, Progress)), None)
    return nullcontext() if shown is None else shown.stage(title)
