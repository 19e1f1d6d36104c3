"""Skip what an activation leaves near zero, input by input.

    channels    y = W h + b  →  W[:, K] h[K] + b,     K = the channels where some row has |h| > threshold
    rows        y_r = W h_r + b  →  b                 for the rows r where no channel has

h is what an activation such as ReLU gives, and goes into a linear layer. Nothing is left out at a threshold of 0 but
exact zeros; above, the pass is lossy, and its error is told. Which channels or rows are live is found anew at each
call, so it pays where few are: a layer is gated where the samples show that no more than `most` of them are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from graphopt.analysis.interpreter import watch_values
from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ir.dims import product
from graphopt.passes.attention.sites import type_of
from graphopt.passes.support.constants import drop_unused
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

CHANNELS, ROWS = "channels", "rows"
_ACTIVATIONS = frozenset(f"aten.{name}" for name in ("relu", "relu6", "gelu", "silu", "hardswish", "threshold", "mish"))
_THROUGH = frozenset({"aten.dropout", "aten.clone", "aten.alias"})


@dataclass(frozen=True)
class GateActivations(Pass):
    """Leave out the channels, or the rows, of a linear layer whose inputs are near zero.

    threshold: what counts as zero. by: "channels" or "rows". most: the share of live ones up to which to do it.
    """

    contract = Contract.LOSSY
    must_speed_up = True

    threshold: float = 0.0
    by: str = CHANNELS
    most: float = 0.4

    def __post_init__(self) -> None:
        with requested():
            if self.by not in (CHANNELS, ROWS):
                raise GraphOptError(f"by={self.by!r} is neither {CHANNELS!r} nor {ROWS!r}")
            if not self.threshold >= 0:
                raise GraphOptError(f"threshold={self.threshold} is no bound of a magnitude; it is 0 or more")
            if not 0 < self.most <= 1:
                raise GraphOptError(f"most={self.most} is no share; it lies above 0 and goes up to 1")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        layers = [(node, value) for node in graph if (value := _gated(node)) is not None]
        if not layers or not context.samples:
            reason = "no linear layer reads an activation" if not layers else "there are no example inputs to judge by"
            return PassResult(False, notes=[reason])
        report = self._live(graph, [value for _, value in layers], context)
        rewriter = Rewriter(graph, context.listeners)
        for node, value in layers:
            if report.live[value.name] <= self.most:
                with rewriter.at(node, self.name):
                    build = self._channels if self.by == CHANNELS else self._rows
                    weight = node.operands[1]
                    rewriter.replace(node, [build(node, value, rewriter, context)])
                drop_unused(rewriter, weight)
                report.gated.append(node.results[0].name)
        return PassResult(rewriter.changed, notes=[str(report)], details=report)

    def _live(self, graph: Graph, values: list[Value], context: PassContext) -> GateReport:
        """The share of live channels or rows in the samples."""
        found: dict[Value, list[float]] = {value: [] for value in values}

        def take(value: Value, tensor: Any) -> None:
            if value in found and tensor.numel():
                flat = tensor.detach().abs().flatten(0, -2)
                found[value].append(float((flat.amax(0 if self.by == CHANNELS else 1) > self.threshold).float().mean()))

        watch_values(graph, context.samples, take)
        return GateReport(self.by, {v.name: sum(each) / max(len(each), 1) for v, each in found.items()})

    def _indices(self, value: Value, dims: tuple[int, ...], rewriter: Rewriter) -> Value:
        """Where some element along some dims is above the threshold."""
        largest = rewriter.create("aten.amax", rewriter.create("aten.abs", value).result, dims).result
        live = rewriter.create("aten.gt.Scalar", largest, self.threshold).result
        return rewriter.create("aten.squeeze.dim", rewriter.create("aten.nonzero", live).result, 1).result

    def _channels(self, node: Node, value: Value, rewriter: Rewriter, context: PassContext) -> Value:
        weight, bias = node.operands[1], node.operands[2] if len(node.operands) > 2 else None
        assert weight is not None and weight.constant is not None
        indices = self._indices(value, tuple(range(type_of(value).rank - 1)), rewriter)
        x = rewriter.create("aten.index_select", node.operands[0], -1, indices).result
        if context.trainable:
            chosen = rewriter.create("aten.t", rewriter.create("aten.index_select", weight, 1, indices).result).result
        else:  # rows are read at once, columns number by number
            columns = rewriter.constant(weight.constant.tensor.t().contiguous(), f"{weight.name}_columns")
            chosen = rewriter.create("aten.index_select", columns, 0, indices).result
        y = rewriter.create("aten.matmul", x, chosen).result
        return y if bias is None else rewriter.create("aten.add.Tensor", y, bias).result

    def _rows(self, node: Node, value: Value, rewriter: Rewriter, context: PassContext) -> Value:
        result, bias = type_of(node.result), node.operands[2] if len(node.operands) > 2 else None
        count, width = product(result.shape[:-1]), result.shape[-1]
        flat = rewriter.create("aten.reshape", node.operands[0], (count, type_of(value).shape[-1])).result
        indices = self._indices(flat, (1,), rewriter)
        live = rewriter.create("aten.index_select", flat, 0, indices).result
        y = rewriter.rebuild(node, [live, *node.operands[1:]]).result
        rest = rewriter.create("aten.new_zeros", y, (count, width)).result
        if bias is not None:
            rest = rewriter.create("aten.add.Tensor", rest, bias).result
        filled = rewriter.create("aten.index_copy", rest, 0, indices, y).result
        return rewriter.create("aten.reshape", filled, result.shape).result


@dataclass
class GateReport:
    """live: the share of live channels or rows in the samples, by activation. gated: the layers that skip the rest."""

    by: str
    live: dict[str, float]
    gated: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        shares = ", ".join(f"%{name} {share:.0%}" for name, share in self.live.items())
        return f"{len(self.gated)} of {len(self.live)} layers are gated by {self.by}; live in the samples: {shares}"


def _gated(node: Node) -> Value | None:
    """The activation that a linear layer with a stored weight reads, if it does."""
    if node.name != "aten.linear" or node.operands[1] is None or node.operands[1].constant is None:
        return None
    value = node.operands[0]
    while value is not None and value.producer is not None and value.producer.op.base in _THROUGH:
        value = value.producer.operands[0]
    if value is None or value.producer is None or value.producer.op.base not in _ACTIVATIONS:
        return None
    type_ = value.type
    return value if isinstance(type_, TensorType) and type_.rank >= 2 else None
