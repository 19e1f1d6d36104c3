"""Low-rank decomposition: a layer becomes a chain of cheaper ones.

    linear            W x + b ≈ A (B x) + b                                          svd
    convolution       k×k, then 1×1                                                  svd
                      1×1, then k×k, then 1×1                                        tucker
                      1×1, then k×1 and 1×k of single channels, then 1×1             cp
                      1×1, then k×1, then 1×k, then 1×1                              tensor-train
                      k×1, then 1×k                                                  spatial

With calibration data what counts is the error of a layer's output on them (`decomposition.problem`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from graphopt.analysis import CostModel, bind_sizes
from graphopt.errors import GraphOptError, InputError, requested, unknown_name
from graphopt.ir import Graph
from graphopt.passes.decomposition.applying import Made, can_shift, make, problems_of
from graphopt.passes.decomposition.choosing import BudgetError, Choice, by_error, by_ratio, within
from graphopt.passes.decomposition.covariances import Evidence
from graphopt.passes.decomposition.emitting import replace_layer
from graphopt.passes.decomposition.methods import METHODS
from graphopt.passes.decomposition.options import Curve, Option, applicable, curve, evbmf_option, given
from graphopt.passes.decomposition.report import DecomposedLayer, DecompositionReport, Point, sampled
from graphopt.passes.decomposition.sites import Site, find_sites
from graphopt.passes.decomposition.speed import GAIN, Clock, whole_seconds, why_unmeasured
from graphopt.passes.pruning import options
from graphopt.passes.pruning.criteria.batches import read_batches
from graphopt.passes.support.globs import check_globs, first_fitting
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

BUDGETS = ("macs", "parameters", "latency")
NOTHING = "nothing to decompose: no layer has a stored weight that factors can stand for"


@dataclass(frozen=True)
class Decompose(Pass):
    """Replace layers by chains of cheaper ones.

    method: svd, tucker, cp, tensor-train, spatial, or auto, the best of all for each layer; matrices are always
        decomposed by their SVD, as convolutions are that a method does not split.
    How much is one of these; without any, ratio=0.5:
    rank: the rank of all layers. ranks: those of single layers, by name or glob of the weight,
        `{"fc1.weight"=16, "conv*"=(8, 16)}`; layers that none fits stay, unless something else says how much.
    energy: each layer keeps this share of its squared output. error: each loses this share of its output at most.
    evbmf: the ranks that variational Bayes tells from noise.
    ratio: each layer keeps this share of its multiply-adds.
    macs, parameters, latency: shares of the whole model's to keep, at most; the least error in all within them.
    multiple: ranks are multiples of this, or of what the target computes at once ("target"); small layers may have any.
    data_aware: weigh errors by what layers read on calibration data, or else on the sample inputs; by default where
        there are calibration data. correct_bias: let biases make up for the mean error then.
    embeddings: decompose embedding tables, too; that saves memory and adds multiply-adds.
    layers: what is decomposed, by name or glob of the weight; by default all. ignore: what stays.
    smallest: weights of fewer elements stay.
    only_if_faster: measure layers and what may replace them on the engine, keep those that are no slower as they are,
        and revert all if the whole is no faster. By default single layers are measured where an engine runs the
        result and multiply-adds are what is saved.
    samples: how many batches of calibration data are used, at most.

    No layer is replaced by factors with as many weights or multiply-adds.
    """

    contract = Contract.LOSSY
    conflicts = frozenset({"quantized"})

    method: str = "svd"
    rank: int | None = None
    ranks: Mapping[str, Any] = field(default_factory=dict)
    energy: float | None = None
    error: float | None = None
    evbmf: bool = False
    ratio: float | None = None
    macs: float | None = None
    parameters: float | None = None
    latency: float | None = None
    multiple: int | str = 8
    data_aware: bool | None = None
    correct_bias: bool = True
    embeddings: bool = False
    layers: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    smallest: int = 0
    only_if_faster: bool | None = None
    samples: int = 64

    @property
    def must_speed_up(self) -> bool:  # type: ignore[override]
        """Whether the manager reverts what is no faster."""
        return bool(self.only_if_faster)

    def __post_init__(self) -> None:
        if self.method != "auto" and self.method not in METHODS:
            raise unknown_name("method", self.method, [*METHODS, "auto"])
        if self.rank is not None:
            options.whole("rank", self.rank)
        ranks = options.by_name("ranks", self.ranks, '{"fc1.weight": 16}')
        object.__setattr__(self, "ranks", {name: _rank_tuple(name, given) for name, given in ranks.items()})
        for name in ("energy", "ratio", *BUDGETS):
            if getattr(self, name) is not None:
                options.kept_share(name, getattr(self, name))
        if self.error is not None and not 0 <= self.error < 1:
            raise GraphOptError(f"error is a share of a layer's output, at least 0 and below 1, got {self.error!r}")
        if self.multiple != "target":
            options.whole("multiple", self.multiple)
        for name in ("samples", "smallest"):
            options.whole(name, getattr(self, name), 1 if name == "samples" else 0)
        for name in ("layers", "ignore"):
            object.__setattr__(self, name, options.names(name, getattr(self, name)))
        asked = [n for n in ("rank", "energy", "error", "ratio") if getattr(self, n) is not None]
        asked += ["evbmf"] if self.evbmf else []
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(asked) + bool(budgets) > 1:
            raise GraphOptError(f"{' and '.join(asked + budgets)} each say how far to go; give one of them")

    @property
    def budgets(self) -> dict[str, float]:
        """The shares of the whole model's costs to keep."""
        return {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: data_aware without data, or data that does not fit.
            UnknownNameError: a name in `layers`, `ignore` or `ranks` that no weight has.
            GraphOptError: a rank above the full ones, a budget that cannot be met or measured, or a missing package.
        """
        with requested():
            return self._run(graph, context)

    def _run(self, graph: Graph, context: PassContext) -> PassResult:
        self._check_extra()
        bindings = bind_sizes(graph.inputs, context.samples[0]) if context.samples else {}
        found, left = find_sites(graph, bindings, self.embeddings)
        sites = self._chosen(found, left)
        if not sites:
            return PassResult(False, notes=[NOTHING, *(f"{name} stays: {why}" for name, why in left.items())])
        evidence = Evidence(graph, sites, self._data(graph, context))
        clock = self._clock(graph, sites, context)
        curves, spectra = self._curves(evidence, clock, left, self._multiple(context))
        choice = self._choose(graph, context, bindings, curves, left)
        if clock is not None:
            choice = self._verified(choice, curves, clock, left)
        cost = CostModel(bindings)
        before = cost.graph(graph, peak=False).macs, _stored(graph)
        original = graph.clone() if clock is not None else None
        rewriter = Rewriter(graph, context.listeners)
        report = DecompositionReport((0, 0), (0, 0), bool(evidence.sets), left=left)
        shown = {one.site: one for one in curves}
        chosen = ((site, inputs) for site, inputs in evidence if site in choice)
        made = ((site, make(site, choice[site], inputs, self.correct_bias)) for site, inputs in chosen)
        for site, one in list(made) if evidence.sets else made:  # data is run through the graph as it was
            operator = site.nodes[0].op.base
            names = [value.name for value in replace_layer(site, one.chain, one.shift, rewriter, self.name)]
            report.layers.append(_figures(site, one, operator, shown[site], spectra[site], names))
            report.remarks += one.notes
        report.remarks += [f"{one.site.name}: {why}" for one in curves for why in one.failures]
        report.macs = before[0], CostModel(bindings).graph(graph, peak=False).macs
        report.parameters = before[1], _stored(graph)
        if original is not None and report.layers:
            report.seconds = tuple(whole_seconds([original, graph], context))  # type: ignore[assignment]
        return PassResult(rewriter.changed, notes=report.lines(), details=report)

    def _check_extra(self) -> None:
        extra = None if self.method == "auto" else METHODS[self.method].extra
        if extra is not None and find_spec(extra) is None:
            raise GraphOptError(
                f"{self.method} needs {extra}: pip install 'graphopt[decomposition]', or choose another method"
            )

    def _multiple(self, context: PassContext) -> int:
        from graphopt.targets import get_target

        return get_target(context.target).width_multiple if isinstance(self.multiple, str) else self.multiple

    def _chosen(self, found: Sequence[Site], left: dict[str, str]) -> list[Site]:
        names = [*(site.name for site in found), *left]
        check_globs((*self.layers, *self.ignore, *self.ranks), names, "weight", f"It was given to {self.name}.")
        sites = []
        for site in found:
            if first_fitting(self.ignore, [site.name]) is not None:
                left[site.name] = "it is ignored"
            elif self.layers and first_fitting(self.layers, [site.name]) is None:
                continue
            elif site.shape.numel < self.smallest:
                left[site.name] = f"it has {site.shape.numel} elements"
            else:
                sites.append(site)
        return sites

    def _data(self, graph: Graph, context: PassContext) -> list[list[Any]]:
        if self.data_aware is False or (self.data_aware is None and context.calibration is None):
            return []
        if context.calibration is not None:
            return [batch.inputs for batch in read_batches(graph, context.calibration, self.samples)]
        if not context.samples:
            raise InputError(f"{self.name} needs data to weigh errors by: give calibration=, or data_aware=false")
        return [list(inputs) for inputs in context.samples[: self.samples]]

    def _clock(self, graph: Graph, sites: Sequence[Site], context: PassContext) -> Clock | None:
        reason = why_unmeasured(graph, context)
        if self.latency is not None or self.only_if_faster:
            if reason is not None:
                asked = "latency" if self.latency is not None else "only_if_faster"
                raise GraphOptError(f"{asked} is measured on the target's engine, which is not possible: {reason}")
            return Clock(graph, sites, context)
        saves_work = self.only_if_faster is None and not context.trainable and self.parameters is None
        return Clock(graph, sites, context) if saves_work and reason is None else None

    # Choosing

    def _curves(
        self, evidence: Evidence, clock: Clock | None, left: dict[str, str], multiple: int
    ) -> tuple[list[Curve], dict[Site, tuple[float, ...]]]:
        curves = []
        spectra: dict[Site, tuple[float, ...]] = {}
        for site, inputs in evidence:
            problems = problems_of(site, inputs, self.correct_bias and can_shift(site))
            found = self._curve(site, problems, multiple)
            spectra[site] = sampled(problems[0].squares.sqrt().tolist())
            if clock is not None:
                found = clock.measure(found, self.latency is not None)
            if not found.options:
                left[site.name] = found.why_not
            curves.append(found)
        if self.rank is not None and not any(one.options for one in curves):
            full = max(max(METHODS["svd"].full(one.site.shape)) for one in curves)
            if self.rank > full:
                raise GraphOptError(f"rank={self.rank} is above the full rank of every layer; the greatest is {full}")
        return curves, spectra

    def _curve(self, site: Site, problems: list[Any], multiple: int) -> Curve:
        methods, reasons = applicable(site, self.method)
        methods = methods or [METHODS["svd"]]
        name = first_fitting(self.ranks, [site.name])
        if name is not None or self.rank is not None:
            ranks = self.ranks[name] if name is not None else (self.rank or 0,)
            found, why = given(site, problems, methods, ranks, name or "rank")
            if name == site.name and not found and "full rank" in why:
                raise GraphOptError(f"{site.name}: {why}")
            return Curve(site, found, [why] if why else [])
        if self.ranks and not self._asks():
            return Curve(site, [], ["no rank is given for it"])
        if self.evbmf:
            looks = [evbmf_option(site, problems, method, multiple) for method in methods]
            return Curve(site, [o for some, _ in looks for o in some], [why for _, why in looks if why])
        return curve(site, problems, methods, reasons, multiple)

    def _asks(self) -> bool:
        return self.evbmf or any(getattr(self, n) is not None for n in ("rank", "energy", "error", "ratio", *BUDGETS))

    def _choose(
        self,
        graph: Graph,
        context: PassContext,
        bindings: Mapping[str, int],
        curves: Sequence[Curve],
        left: dict[str, str],
    ) -> Choice:
        if self.budgets:
            return self._within_budgets(graph, context, bindings, curves, left)
        if self.energy is not None or self.error is not None:
            bound = 1 - self.energy if self.energy is not None else (self.error or 0.0) ** 2
            choice, reasons = by_error(curves, bound)
        elif self.rank is not None or self.ranks or self.evbmf:
            choice, reasons = by_error(curves, math.inf)
        else:
            choice, reasons = by_ratio(curves, 0.5 if self.ratio is None else self.ratio)
        left.update({site.name: why for site, why in reasons.items()})
        return choice

    def _within_budgets(
        self,
        graph: Graph,
        context: PassContext,
        bindings: Mapping[str, int],
        curves: Sequence[Curve],
        left: dict[str, str],
    ) -> Choice:
        wholes = {"macs": float(CostModel(bindings).graph(graph, peak=False).macs), "parameters": float(_stored(graph))}
        if self.latency is not None:
            wholes["latency"] = whole_seconds([graph], context)[0]
        seconds = {one.site: one.seconds or 0.0 for one in curves}
        # Layers alone may take longer than in the graph, where calls cost less.
        scale = min(1.0, wholes.get("latency", 0.0) / (sum(seconds.values()) or 1.0))

        def price(kind: str, site: Site, option: Option | None) -> float:
            if kind == "latency":
                return scale * ((seconds[site] if option is None else option.seconds) or 0.0)
            return float(getattr(site.work if option is None else option.work, kind))

        bounds = {}
        for kind, share in self.budgets.items():
            rest = wholes[kind] - sum(price(kind, one.site, None) for one in curves)
            bounds[kind] = (lambda s, o, kind=kind: price(kind, s, o)), share * wholes[kind] - rest
        try:
            choice = within(curves, bounds)
        except BudgetError as error:
            rest = wholes[error.budget] - sum(price(error.budget, one.site, None) for one in curves)
            least = math.ceil(1e4 * (rest + error.least) / wholes[error.budget]) / 1e4
            raise GraphOptError(
                f"{error.budget}={self.budgets[error.budget]:g} cannot be reached: the least is "
                f"{error.budget}={least:g}, with every layer at its least rank; ask for that, or ignore fewer layers"
            ) from error
        for one in curves:
            if one.options and one.site not in choice:
                left[one.site.name] = "the budget is met without it"
        return choice

    @staticmethod
    def _verified(choice: Choice, curves: Sequence[Curve], clock: Clock, left: dict[str, str]) -> Choice:
        """The choice without layers that turn out no faster; those that were not measured before are now."""
        found: Choice = {}
        for one in curves:
            option = choice.get(one.site)
            if option is None:
                continue
            if option.seconds is None:
                measured = clock.measure(Curve(one.site, [option], []), True)
                if not measured.options:
                    left[one.site.name] = measured.why_not
                    continue
                one.seconds, option = measured.seconds, measured.options[0]
            if one.seconds is None or option.seconds is None or option.seconds < GAIN * one.seconds:
                found[one.site] = option
        return found


def _rank_tuple(name: str, given_: Any) -> tuple[int, ...]:
    values = tuple(given_) if isinstance(given_, list | tuple) else (given_,)
    return tuple(options.whole(f"the rank of {name}", value) for value in values)


def _stored(graph: Graph) -> int:
    """The floating-point numbers that a graph stores."""
    tensors = [value.constant.tensor for value in graph.constants.values() if value.constant is not None]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def _figures(
    site: Site, made: Made, operator: str, shown: Curve, values: tuple[float, ...], names: Sequence[str]
) -> DecomposedLayer:
    option = made.option
    times = None
    if shown.seconds is not None and option.seconds is not None:
        times = (1e3 * shown.seconds, 1e3 * option.seconds)
    points = tuple(
        Point(o.method, o.ranks, math.sqrt(max(o.error, 0.0)), o.work.macs, o.work.parameters, _milliseconds(o))
        for o in shown.options
    )
    return DecomposedLayer(
        site.name,
        operator,
        site.layer.shape,
        option.method,
        option.ranks,
        METHODS[option.method].full(site.shape),
        made.error,
        made.weight_error,
        (site.work.macs, option.work.macs),
        (site.work.parameters, option.work.parameters),
        times,
        values,
        points,
        tuple(names),
    )


def _milliseconds(option: Option) -> float | None:
    return None if option.seconds is None else 1e3 * option.seconds
