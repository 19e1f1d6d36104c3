"""What a run of the pass manager did, as data, JSON and text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from graphopt.analysis import GraphCost
from graphopt.rewrite import RewriteStatistics, RuleStatistics


class Status(Enum):
    """How a pass ended."""

    KEPT = "kept"
    NO_CHANGE = "no change"
    ROLLED_BACK = "rolled back"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class ErrorSummary:
    """The error of a graph's outputs against the original graph; the worst output counts.

    It is measured against the original in float64 where a pass is lossy, or could not be judged without; else against
    the original's own outputs in the working precision, which spares a run.

    max_abs: largest absolute difference. max_rel: the same, divided by the output's largest magnitude.
    relative_rms: root of (energy of the difference / energy of the output).
    output: which returned value is worst, by index. float64: largest relative difference of two graphs in float64.
    mismatches: elements of integer and bool outputs that differ, of how many (`elements`).
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    relative_rms: float = 0.0
    output: int = 0
    float64: float | None = None
    mismatches: int = 0
    elements: int = 0

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise ratio in dB: −20·log10(relative_rms); infinite without any difference."""
        return math.inf if self.relative_rms == 0 else -20 * math.log10(self.relative_rms)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, and the SQNR, as JSON values."""
        return {**asdict(self), "sqnr": self.sqnr}


@dataclass
class DeclinedRule:
    """Why a rule left nodes alone, how often, and where (a few examples)."""

    rule: str
    reason: str
    count: int
    examples: list[str] = field(default_factory=list)


@dataclass
class PassRecord:
    """What one run of one pass did. Costs are None where the pass changed nothing; times are in seconds.

    where: the path in the pipeline, as `fixpoint[2]`. promise: the contract that this run was held to.
    error: against the original graph, after this pass. model_runs: how often a model ran to validate it.
    check, finding: what found a failure ("numbers", "graph", …), and what is known of it (see `explanation.Finding`).
    first_application, applications: the number of its first rule application over the whole pipeline (see `bisection`),
        and how many it made.
    rules: what each rule tried and did. changes: lines of the text form, `-` removed and `+` added (see `changes`).
    details: the pass's own report, as it returned it.
    """

    name: str
    text: str
    where: str = ""
    promise: str = ""
    status: Status = Status.NO_CHANGE
    reason: str = ""
    check: str = ""
    finding: Any = field(default=None, repr=False, compare=False)
    before: GraphCost | None = None
    after: GraphCost | None = None
    error: ErrorSummary | None = None
    validated: str = ""
    seconds: float = 0.0
    verify_seconds: float = 0.0
    validate_seconds: float = 0.0
    model_runs: int = 0
    first_application: int = 1
    applications: int = 0
    applied: dict[str, int] = field(default_factory=dict)
    declined: list[DeclinedRule] = field(default_factory=list)
    rules: dict[str, RuleStatistics] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: Any = None

    @property
    def changed(self) -> bool:
        """True if the pass changed the graph and was kept."""
        return self.status is Status.KEPT


@dataclass
class Report:
    """What a run did: a record a pass, totals before and after, and notes.

    samples: how many sample sets the numbers were checked on. total_error: of the final graph against the original.
    sizes: of the symbols, that costs are counted at.
    """

    pipeline: str = ""
    target: str = ""
    records: list[PassRecord] = field(default_factory=list)
    before: GraphCost | None = None
    after: GraphCost | None = None
    total_error: ErrorSummary | None = None
    validate: str = "off"
    samples: int = 0
    model_runs: int = 0
    seconds: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> list[PassRecord]:
        """The passes that changed the graph."""
        return [r for r in self.records if r.status is Status.KEPT]

    @property
    def rolled_back(self) -> list[PassRecord]:
        """The passes whose change was undone."""
        return [r for r in self.records if r.status is Status.ROLLED_BACK]

    @property
    def applied(self) -> dict[str, int]:
        """How often each rule was applied, in the passes that were kept."""
        total: dict[str, int] = {}
        for record in self.kept:
            for rule, count in record.applied.items():
                total[rule] = total.get(rule, 0) + count
        return total

    @property
    def rules(self) -> dict[str, RuleStatistics]:
        """What each rule tried and did, over all passes, those that were undone included."""
        total = RewriteStatistics()
        for record in self.records:
            total.merge(RewriteStatistics(record.rules))
        return total.rules

    def record(self, name: str) -> PassRecord:
        """The first record of the pass `name`.

        Raises:
            KeyError: the pass did not run.
        """
        for record in self.records:
            if record.name == name:
                return record
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values (infinities and NaN as strings)."""
        return _plain(
            {
                **{name: getattr(self, name) for name in ("pipeline", "target", "validate", "samples", "model_runs")},
                "seconds": self.seconds,
                "sizes": self.sizes,
                "before": self.before,
                "after": self.after,
                "total_error": self.total_error,
                "notes": self.notes,
                "passes": [{f: getattr(r, f) for f in r.__dataclass_fields__ if f != "finding"} for r in self.records],
            }
        )

    def to_json(self, indent: int | None = None) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        from graphopt.passmanager.report_text import report_text

        return report_text(self)

    def rich(self) -> Any:
        """Return the report as a renderable of the library rich."""
        from graphopt.passmanager.report_rich import report_view

        return report_view(self)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if isinstance(value, DeclinedRule | RuleStatistics):
        return _plain(asdict(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
