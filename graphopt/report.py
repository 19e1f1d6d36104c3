"""The report of a compilation: the passes' part, the engines' part, the graphs, and the times of each stage.

As JSON (`to_dict`), form 1: `model`, `target`, `engine`; `engines`, a row for each that was tried; `seconds` of each
stage; `passes`, see `graphopt.passmanager.Report`; `graphs`, `before` and `after`, see `graphopt.html_report.facts`.
`pruning`, if channels were pruned, see `graphopt.passes.pruning.report`; `quantization`, if layers were quantized, see
`graphopt.passes.quantization.report`; `decomposition`, if layers were, see `graphopt.passes.decomposition.report`.
`opaque`, if there are such nodes: how many of each operator of ONNX that no PyTorch operator expresses.
Where it was asked for: `measured`, latencies; `attribution`, where errors come from; `histories`, by the name of a
result the steps that made or changed its node; `peaks`, what the machine can do; `compiled`, the report that a loaded
model brought along.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from graphopt.engine_choice import EngineTrial
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, walk
from graphopt.ops.onnx_dialect import counted, is_opaque
from graphopt.passmanager import Report

if TYPE_CHECKING:
    from graphopt.debugging import ErrorAttribution
    from graphopt.html_report import Peaks
    from graphopt.measure import Measurement
    from graphopt.passes.decomposition.report import DecompositionReport
    from graphopt.passes.pruning.report import PruningReport
    from graphopt.passes.quantization.report import QuantizationReport

FORMAT = 1


@dataclass
class CompileReport:
    """What `graphopt.compile` did. `print` it, `save` it as a page, or take `to_dict()` and `to_json()`.

    passes: what each pass did (`graphopt.passmanager.Report`). engines: the candidates that were tried, with medians
    in milliseconds. seconds: the time of each stage. model: the name of its class. engine: what runs the result.
    before, after: the graph as captured (without the numbers of its tensors), and as it runs.
    measured, node_seconds, attribution, histories, peaks: filled by `CompiledModel.measure`.
    compiled: of a model that was loaded from a file, the report (as `to_dict` gives it) of how it was compiled.
    """

    target: str
    passes: Report
    engines: Sequence[EngineTrial] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    compiled: dict[str, Any] | None = None
    model: str = ""
    engine: str = ""
    before: Graph | None = field(default=None, repr=False)
    after: Graph | None = field(default=None, repr=False)
    measured: Sequence[Measurement] = ()
    node_seconds: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)
    attribution: ErrorAttribution | None = field(default=None, repr=False)
    histories: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    peaks: Peaks | None = None

    @property
    def pruning(self) -> PruningReport:
        """What was pruned, all steps together.

        Raises:
            GraphOptError: nothing was: `prune-channels` did not run, or found no channels.
        """
        found = self._pruned()
        if found is None:
            raise GraphOptError("nothing was pruned: prune-channels did not run, or found no channels to prune")
        return found

    def _pruned(self) -> PruningReport | None:
        details = [record.details for record in self.passes.records if record.details is not None]
        if not details:
            return None
        from graphopt.passes.pruning.report import PruningReport

        found = [one for one in details if isinstance(one, PruningReport)]
        return PruningReport.merged(found) if found else None

    @property
    def quantization(self) -> QuantizationReport:
        """What was quantized, by the pass that did so last.

        Raises:
            GraphOptError: nothing was.
        """
        found = self._quantized()
        if found is None:
            raise GraphOptError("nothing was quantized: no pass that quantizes ran, or it found nothing")
        return found

    def _quantized(self) -> QuantizationReport | None:
        details = [record.details for record in self.passes.kept if record.details is not None]
        if not details:
            return None
        from graphopt.passes.quantization.report import QuantizationReport

        return next((one for one in reversed(details) if isinstance(one, QuantizationReport)), None)

    @property
    def decomposition(self) -> DecompositionReport:
        """What was decomposed, by the pass that did so last.

        Raises:
            GraphOptError: nothing was.
        """
        found = self._decomposed()
        if found is None:
            raise GraphOptError("nothing was decomposed: decompose did not run, or found nothing to decompose")
        return found

    def _decomposed(self) -> DecompositionReport | None:
        details = [record.details for record in self.passes.kept if record.details is not None]
        if not details:
            return None
        from graphopt.passes.decomposition.report import DecompositionReport

        return next((one for one in reversed(details) if isinstance(one, DecompositionReport)), None)

    @property
    def opaque(self) -> list[Node]:
        """The nodes of the result that are operators of ONNX which no PyTorch operator expresses."""
        return [] if self.after is None else [node for node in walk(self.after) if is_opaque(node)]

    def opaque_line(self) -> str:
        """Return their number and operators as a line of text."""
        count = len(self.opaque)
        return f"opaque: {count} {'node' if count == 1 else 'nodes'}: {counted(self.opaque)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; the module says what they mean."""
        from graphopt import __version__

        found: dict[str, Any] = {
            "format": FORMAT,
            "graphopt": __version__,
            "torch": torch.__version__,
            "model": self.model,
            "target": self.target,
            "engine": self.engine,
            "engines": [trial.to_dict() for trial in self.engines],
            "seconds": self.seconds,
            "passes": self.passes.to_dict(),
            "graphs": self._graphs(),
        }
        if self.opaque:
            found["opaque"] = dict(Counter(node.op.name for node in self.opaque))
        if (pruned := self._pruned()) is not None:
            found["pruning"] = pruned.to_dict()
        if (quantized := self._quantized()) is not None:
            found["quantization"] = quantized.to_dict()
        if (decomposed := self._decomposed()) is not None:
            found["decomposition"] = decomposed.to_dict()
        if self.measured:
            found["measured"] = [asdict(row) for row in self.measured]
        if self.attribution is not None:
            found["attribution"] = self.attribution.to_dict()
        if self.histories:
            found["histories"] = {name: list(lines) for name, lines in self.histories.items()}
        if self.peaks is not None:
            found["peaks"] = self.peaks.to_dict()
        return found if self.compiled is None else {**found, "compiled": self.compiled}

    def _graphs(self) -> dict[str, Any]:
        from graphopt.html_report import graph_facts

        graphs = {}
        for name, graph in (("before", self.before), ("after", self.after)):
            if graph is not None:
                graphs[name] = graph_facts(graph, self.passes.sizes)
                if name in self.node_seconds:
                    graphs[name]["seconds"] = list(self.node_seconds[name])
        return graphs

    def to_json(self, indent: int | None = None) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_html(self) -> str:
        """Return the report as one HTML page that needs no other file and no network.

        The machine's peaks for the roofline are measured, which takes 0.3 s, unless the report has them.
        """
        from graphopt.html_report import html_page, with_peaks

        return html_page(with_peaks(self.to_dict()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report: as a page to a `.html` file, as JSON to a `.json` file, replaced only once all is written.

        Raises:
            GraphOptError: another suffix, or the file cannot be written.
        """
        from graphopt.html_report import write_report

        write_report(self.to_dict(), path)

    def rich(self) -> Any:
        """Return the report as a renderable of the library rich."""
        from graphopt.html_report.terminal import terminal_view

        return terminal_view(self)

    def __str__(self) -> str:
        lines = [str(self.passes).rstrip()]
        if self.opaque:
            lines += ["", self.opaque_line()]
        if self.engines:
            lines += ["", *engine_lines(self.engines)]
        if self.seconds:
            stages = ", ".join(f"{name} {value:.2f} s" for name, value in self.seconds.items())
            lines += ["", f"time: {stages}"]
        return "\n".join(lines)


def engine_lines(trials: Sequence[EngineTrial]) -> list[str]:
    """Return a line for each engine that was tried."""
    width = max(len(trial.title) for trial in trials)
    lines = ["engines"]
    for trial in trials:
        shown = trial.reason or ("loaded" if trial.milliseconds is None else f"{trial.milliseconds:.3f} ms")
        if trial.planned_bytes and not trial.reason:
            shown += f"  {trial.planned_bytes / 1e6:.3g} MB"
        lines.append(f"  {trial.title:<{width}}  {shown}{'  (chosen)' if trial.chosen else ''}")
    return lines
