"""Quantize: pairs of quantize and dequantize around what a target runs on integers, with scales from calibration data.

    y = f(x, W)   →   y = D(Q(f(D(Q(x)), D(W_q))))

Which values get a pair is decided by the target's profile (`passes/quantization/profiles.py`); ranges come from running
the graph over calibration data, sample by sample, so that they do not depend on how the data is split into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphopt.errors import GraphOptError, requested, unknown_name
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import Format, find_format
from graphopt.passes.quantization.adaround import AdaRounding
from graphopt.passes.quantization.bias_correction import layer_means, shifts
from graphopt.passes.quantization.calibrate import calibrate
from graphopt.passes.quantization.clipping import METHODS, NEED_BOUNDS_ALONE, Grid, affine, choose_range, outliers
from graphopt.passes.quantization.fused_pairs import fused_pairs
from graphopt.passes.quantization.histograms import histogram
from graphopt.passes.quantization.insertion import Inserter, Layer, Parameters, WeightOptions
from graphopt.passes.quantization.kernels_used import kernels_used, runs_in_pytorch
from graphopt.passes.quantization.layer_formats import LayerFormats, graph_names, node_names, settled
from graphopt.passes.quantization.placement import Placement, activations_of, place
from graphopt.passes.quantization.preparation import pools_for_means
from graphopt.passes.quantization.profiles import Profile, profile_for
from graphopt.passes.quantization.report import Judge, LayerFigures, QuantizationReport, record
from graphopt.passes.quantization.rounding import GptqRounding, Rounding
from graphopt.passes.quantization.speed import Guard
from graphopt.passes.quantization.spread import ChannelSpreads, Spread, merged
from graphopt.passes.quantization.training import TrainableInserter
from graphopt.passes.support.data import require_data
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter
from graphopt.targets import get_chip

CORRECTION_SAMPLES = 64
"""Biases are corrected on so many samples at most: all their live values are held at once."""

REPORT_SAMPLES = 8
"""The report measures layers on so many samples at most."""

_Samples = list[list[Any]]
NOTHING_FASTER = "nothing was quantized: the graph is no faster on integers, whichever layers run so"
NOTHING = "nothing to quantize: no operator that the target runs on integers has a stored weight"


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize layers and what stands between them, for kernels that compute in integers.

    dtype: the format of weights, symmetric. activations: that of activations; by default the target's.
    formats: formats of the weights of single layers, by name or glob, `{"layer1.*"=int4, fc=float}`; the first that
        fits counts, and `float` leaves the layer in floating point.
    reduce_range: round weights of 8 bits to 7, since kernels of chips without VNNI add pairs of products in 16 bits,
        which saturate. By default that is done where the target's kernels do so on the chip.
    chip: the chip that is meant, avx2, vnni or other; by default that of the target's device, or of this machine.
    method: how ranges of activations are chosen: minmax, mean, percentile, mse, lp or entropy (see
        `quantization.clipping`). percentile: of that method, in percent. power: of lp, the exponent of the error.
    granularity: "channel" gives weights a scale for each output channel, and what depthwise convolutions read one for
        each channel where the target takes that; "tensor" gives one in all.
    weights: how scales of weights are chosen: minmax or mse.
    rounding: of weights: nearest; gptq, which has the columns of a weight make up for each other's errors; or adaround,
        which learns for each weight whether it is rounded up or down. iterations: of adaround, for each layer.
    sequential: adaround takes what a layer reads with all before it quantized.
    symmetric: activations without zero points; by default what the target wants.
    ignore: operators left in floating point, by name or glob of the operator, of its result, of its module or of what
        it has stored.
    correct_bias: move biases so that quantization moves no channel's mean.
    samples: how many calibration samples are used, at most.
    trainable: round by fake quantization, so that weights and scales train; by default where the result is trained.
        `convert-quantized` makes integers of it.
    only_if_faster: time each layer on the engine in floating point and on integers, and leave those in floating point
        that make the graph slower; then measure the result, and leave the graph as it was where it is no faster.
    profile: the target whose kernels are meant, or a file of one; by default the one compiled for.

    It runs the graph on the calibration data, or else on the sample inputs.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"quantized"})
    conflicts = frozenset({"quantized", "reduced-precision"})

    dtype: str = "int8"
    activations: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)
    reduce_range: bool | None = None
    chip: str = ""
    method: str = "lp"
    percentile: float = 99.99
    power: float = 3.0
    granularity: str = "channel"
    weights: str = "minmax"
    rounding: str = "nearest"
    iterations: int = 1000
    sequential: bool = True
    symmetric: bool | None = None
    ignore: tuple[str, ...] = ()
    correct_bias: bool = True
    samples: int = 512
    trainable: bool | None = None
    only_if_faster: bool = False
    profile: str = ""

    @property
    def must_speed_up(self) -> bool:  # type: ignore[override]
        """Whether the manager reverts what is no faster."""
        return self.only_if_faster

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("method", self.method, tuple(METHODS)),
            ("granularity", self.granularity, ("channel", "tensor")),
            ("weights", self.weights, ("minmax", "mse")),
            ("rounding", self.rounding, ("nearest", "gptq", "adaround")),
        ):
            if value not in allowed:
                raise unknown_name(f"value of {name}", value, allowed)
        for text in (self.dtype, self.activations or self.dtype):
            format_ = find_format(text)
            if format_.is_float or format_.bits > 16:
                raise GraphOptError(f"{format_.name} is no format of static quantization; choose int2 to int16")
        if not 50 < self.percentile <= 100:
            raise GraphOptError(f"percentile is {self.percentile}; it lies above 50 and is at most 100")
        if self.iterations < 1:
            raise GraphOptError(f"iterations is {self.iterations}; adaround needs at least one")
        if self.samples < 1:
            raise GraphOptError(f"samples is {self.samples}; at least one is needed")
        object.__setattr__(self, "formats", settled(self.formats, 16))
        get_chip(self.chip)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: no data, or activations that are not finite; the message names the value.
            UnknownNameError: a name in `ignore` or `formats` that nothing has, or a target of which nothing is known.
        """
        with requested():
            profile = profile_for(self.profile, context)
            guard = self._guard(graph, profile, context) if self.only_if_faster else None
            if guard is not None and not guard.pays:
                return PassResult(False, notes=[NOTHING_FASTER, *guard.left()])
            rewriter = Rewriter(graph, context.listeners)
            pools_for_means(graph, rewriter, self.name)
            formats = self._layer_formats(graph)
            plan = place(graph, profile, lambda node: _why_float(node, formats, guard))
            if not plan.layers:
                return PassResult(rewriter.changed, notes=[NOTHING, *_left(plan)])
            format_, symmetric = self.activation_format(profile)
            widths = self._widths(profile, context, formats, plan)
            left = _left(plan)
            found, split, kept = self._spreads(graph, plan, context)
        notes = [] if guard is None else guard.notes
        parameters: dict[Value, Parameters] = {}
        for value, spread in found.items():
            parameters[value] = self._parameters(spread, split.get(value), Grid(format_, symmetric))
            if outliers(spread):
                notes.append(f"%{value.name} reaches from {spread.low:.4g} to {spread.high:.4g} by few outliers")
        some = kept[:REPORT_SAMPLES]
        sources = {node: activations_of(node, fusion, True)[0] for node, fusion in plan.layers.items()}
        recorded = record(graph, sources, some)
        others = [(node.result.name, node.op.base) for node in plan.others]
        layers, told = self._rewritten(graph, rewriter, profile, plan, parameters, kept, widths, self._trains(context))
        counts = {"layers": len(plan.layers), "other operators": len(plan.others), "pairs": len(plan.pairs)}
        report = QuantizationReport(counts, left=left)
        judge = Judge(graph)
        whole = judge.accumulated({layers[node].node: given for node, given in recorded.outputs.items()}, some)
        for node, source in sources.items():
            layer, scale = layers[node], plan.scale_of(source)
            rounded = [parameters[scale].rounded(x, format_) for x in recorded.inputs[source]]
            covered = parameters[scale].covered(format_)
            report.layers.append(
                LayerFigures(
                    layer.name,
                    node.op.base,
                    widths[node].name,
                    seen=(found[scale].low, found[scale].high),
                    covered=covered,
                    own=judge.own(layer, rounded, recorded.outputs[node]),
                    accumulated=whole[layer.node],
                    milliseconds=None if guard is None else guard.milliseconds(node),
                    histogram=histogram(found[scale], covered),
                )
            )
        if runs_in_pytorch(context):
            report.kernels = kernels_used(graph, layers, others, self._trains(context))
        report.fused = None if self._trains(context) else fused_pairs(graph, context)
        return PassResult(rewriter.changed, notes=[*report.lines(), *notes, *told], details=report)

    def _rewritten(
        self,
        graph: Graph,
        rewriter: Rewriter,
        profile: Profile,
        plan: Placement,
        parameters: dict[Value, Parameters],
        kept: _Samples,
        widths: dict[Node, Format],
        trainable: bool,
    ) -> tuple[dict[Node, Layer], list[str]]:
        """Write the plan into the graph; return what the layers are now, and notes."""
        kind = TrainableInserter if trainable else Inserter
        inserter = kind(graph, rewriter, profile, self.activation_format(profile)[0], self.name)
        read = {node: self._read(node, plan, parameters) for node in plan.layers}
        some = kept[:CORRECTION_SAMPLES]
        means = layer_means(graph, list(plan.layers), some) if self.correct_bias else {}
        rounding = self._rounding(graph, list(plan.layers), kept)
        inserter.pairs(plan, parameters)
        options = WeightOptions(find_format(self.dtype), self.granularity == "channel", self.weights == "mse", rounding)
        layers = {
            node: inserter.weight(node, fusion, read[node], replace(options, format_=widths[node]))
            for node, fusion in plan.layers.items()
        }
        wanted = {layer.node: means[node] for node, layer in layers.items() if node in means and layer.bias is not None}
        moved = shifts(graph, wanted, some) if wanted else {}
        for layer in layers.values():
            inserter.bias(layer, moved.get(layer.node))
        return layers, [] if rounding is None else rounding.notes

    def _rounding(self, graph: Graph, layers: list[Node], sets: _Samples) -> Rounding | None:
        if self.rounding == "adaround":
            return AdaRounding(graph, layers, sets, self.iterations, self.sequential)
        return GptqRounding(graph, layers, sets) if self.rounding == "gptq" else None

    def _layer_formats(self, graph: Graph) -> LayerFormats:
        return LayerFormats(self.dtype, self.formats, self.ignore, graph_names(graph), self.name)

    def _guard(self, graph: Graph, profile: Profile, context: PassContext) -> Guard | None:
        """What measuring says of a copy of the graph; None if there is nothing to measure."""
        copy = graph.clone()
        pools_for_means(copy, Rewriter(copy), self.name)
        formats = self._layer_formats(copy)
        plan = place(copy, profile, lambda node: _why_float(node, formats, None))
        return Guard(copy, plan, profile, self.activation_format(profile)[0], context) if plan.layers else None

    def _widths(
        self, profile: Profile, context: PassContext, formats: LayerFormats, plan: Placement
    ) -> dict[Node, Format]:
        """The format of each layer's weight; of 7 bits for 8 where sums of pairs of products would saturate."""
        reduce = self.reduce_range
        if reduce is None:
            unsigned = self.activation_format(profile)[0].name == "uint8"
            reduce = unsigned and get_chip(self.chip, context.features).saturates
        found = {node: formats.of(node_names(node)) for node in plan.layers}
        reduced = find_format("int7")
        return {node: reduced if reduce and format_.name == "int8" else format_ for node, format_ in found.items()}

    def _trains(self, context: PassContext) -> bool:
        return context.trainable if self.trainable is None else self.trainable

    def activation_format(self, profile: Profile) -> tuple[Format, bool]:
        """The format of activations, and whether it is symmetric."""
        symmetric = profile.symmetric if self.symmetric is None else self.symmetric
        default = "int8" if symmetric else profile.activations
        return find_format(self.activations or default), symmetric

    def _spreads(
        self, graph: Graph, plan: Placement, context: PassContext
    ) -> tuple[dict[Value, Spread], dict[Value, ChannelSpreads], _Samples]:
        sources = plan.sources()
        wanted = list(dict.fromkeys(value for members in sources.values() for value in members))
        require_data(context, self.name)
        data: Iterable[Any] = context.calibration if context.calibration is not None else context.samples
        histograms = self.method not in NEED_BOUNDS_ALONE
        kept = (
            self.samples if self.rounding != "nearest" else CORRECTION_SAMPLES if self.correct_bias else REPORT_SAMPLES
        )
        channels = plan.channelwise if self.granularity == "channel" else {}
        found, split, samples = calibrate(
            graph, wanted, data, self.samples, histograms=histograms, keep=kept, channels=channels
        )
        return (
            {scale: merged([found[value] for value in members]) for scale, members in sources.items()},
            split,
            samples,
        )

    def _parameters(self, spread: Spread, split: ChannelSpreads | None, grid: Grid) -> Parameters:
        if split is None:
            return Parameters(*self._affine(spread, grid))
        scales, zeros = zip(*(self._affine(channel, grid) for channel in split.channels))
        return Parameters(scales, zeros, split.axis)

    def _affine(self, spread: Spread, grid: Grid) -> tuple[float, int]:
        if spread.is_empty:
            return 1.0, 0
        low, high = choose_range(spread, self.method, grid, self.percentile, self.power)
        return affine(low, high, grid.format_, grid.symmetric)

    @staticmethod
    def _read(node: Node, plan: Placement, parameters: dict[Value, Parameters]) -> Parameters:
        (activation,) = activations_of(node, plan.layers[node], True)
        return parameters[plan.scale_of(activation)]


def _why_float(node: Node, formats: LayerFormats, guard: Guard | None) -> str | None:
    slow = None if guard is None else guard.slow.get(node.results[0].name)
    return formats.why_float(node_names(node)) or slow


def _left(plan: Placement) -> list[str]:
    return [f"{node!r} stays in floating point: {reason}" for node, reason in plan.reasons.items()]
