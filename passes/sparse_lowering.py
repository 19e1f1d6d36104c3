"""Store sparse weights sparsely, and multiply by what is not zero alone.

    linear(x, W, b), conv(x, W, b), and relu, silu or gelu behind it
        →  graphopt.sparse_linear, graphopt.sparse_conv of (crow_indices, col_indices, values)

W is kept in blocks of 1, 2, 4 or 8 rows and one column, whichever should be fastest: CSR, or BSR. Each layer is lowered
only where it is faster: by a model that is measured once on each machine, and by measuring the layer on the engine,
where there is one. Reassociating: products with zero are left out, and sums run in another order.

Weights of which two in four are zero ("2:4") stay dense: no kernel of a CPU gains by them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph, Node, Value
from graphopt.kernels import unavailable
from graphopt.passes.sparse.break_even import DOUBT, GAIN, Model, Sizes, bindings_of, measured, model, sizes_of
from graphopt.passes.sparse.report import Lowered, SparsityReport
from graphopt.passes.sparse.sites import HEIGHTS, Site, find_site, format_name, is_two_of_four
from graphopt.passes.support.constants import drop_unused
from graphopt.passes.support.globs import check_globs, first_fitting
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter
from graphopt.rewrite.pattern import Surroundings


@dataclass(frozen=True)
class SparseLowering(Pass):
    """Store sparse weights sparsely, where that is faster.

    measure: confirm the gain of each layer on the engine. height: rows of a block, 1, 2, 4 or 8; 0 lets the model
    choose. force: names or globs of weights that are lowered whatever it gains. ignore: of those that stay dense.
    """

    contract = Contract.REASSOCIATING

    measure: bool = True
    height: int = 0
    force: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        with requested():
            if self.height not in (0, *HEIGHTS):
                raise GraphOptError(f"blocks have {', '.join(map(str, HEIGHTS))} rows, not {self.height}")
        for name in ("force", "ignore"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            UnknownNameError: a name in `force` or `ignore` that no weight of a layer has.
        """
        run = _Run(graph, context, self)
        outputs = frozenset(graph.outputs)
        sites: list[Site] = []
        for node in graph.nodes:
            found = find_site(node, run.surroundings, outputs)
            if isinstance(found, str):
                run.decline(node, found)
            elif found is not None:
                sites.append(found)
        with requested():
            names = [*run.report.declined, *(site.name for site in sites)]
            check_globs((*self.force, *self.ignore), names, "weight", f"It was given to {self.name}.")
        for site in sites:
            run.lower(site)
        return PassResult(run.rewriter.changed, notes=run.report.notes(), details=run.report)


@dataclass
class _Run:
    """One run of the pass."""

    graph: Graph
    context: PassContext
    options: SparseLowering
    report: SparsityReport = field(default_factory=SparsityReport)

    def __post_init__(self) -> None:
        self.rewriter = Rewriter(self.graph, self.context.listeners)
        self.surroundings = Surroundings(self.context.trainable, frozenset(self.graph.mutations))
        self.bindings = bindings_of(self.graph, self.context.samples)
        self.stored: dict[tuple[Value, int, int], tuple[Value, Value, Value]] = {}
        self.times: dict[object, tuple[float, float] | None] = {}

    def decline(self, node: Node, reason: str) -> None:
        """Leave a layer dense."""
        weight = node.operands[1]
        assert weight is not None
        names = weight.constant.names if weight.constant is not None else ()
        self.report.declined[names[0] if names else weight.name] = reason

    def lower(self, site: Site) -> None:
        """Store a weight sparsely, if that is faster."""
        forced = first_fitting(self.options.force, [site.name]) is not None
        if first_fitting(self.options.ignore, [site.name]) is not None:
            self.decline(site.node, "it is to be ignored")
            return
        if is_two_of_four(site) and not forced:
            self.decline(site.node, "2:4 stays a mask: no kernel of a CPU gains by it")
            return
        sizes = sizes_of(site, self.bindings)
        if sizes is None and not forced:
            self.decline(site.node, "its sizes are not known; give example inputs")
            return
        known = model()
        sizes = sizes or Sizes(site.matrix.shape[0], site.inner, 1)
        height = self.options.height or known.best_height(sizes, site.counts)
        if height not in site.counts:
            self.decline(site.node, f"its {site.matrix.shape[0]} rows are no multiple of {height}")
            return
        expected = known.gain(site, sizes, height)
        times = None if forced else self._times(site, height, expected)
        reason = None if forced else _refusal(known, site, sizes, height, times)
        if reason is not None:
            self.decline(site.node, reason)
            return
        self._replace(site, height, expected, times)

    def _times(self, site: Site, height: int, expected: float) -> tuple[float, float] | None:
        """Measured once for layers alike: of one kind, sizes and share of zeros."""
        engine = self.context.engine
        if engine is None or not self.options.measure or expected < DOUBT:
            return None
        kind = (site.node.op, site.node.attributes, site.input.type, site.weight.type, site.activation, height)
        key = (*kind, round(50 * site.counts[height] * height / site.matrix.numel()))
        if key not in self.times:
            self.times[key] = measured(site, height, self.bindings, engine)
        return self.times[key]

    def _replace(self, site: Site, height: int, expected: float, times: tuple[float, float] | None) -> None:
        before, after = times or (None, None)
        stored = site.counts[height] * height / site.matrix.numel()
        self.report.lowered[site.name] = Lowered(format_name(height), site.density, stored, expected, before, after)
        if unavailable() is not None:
            self.report.fallback = unavailable()
        with self.rewriter.at(site.last, self.options.name):
            result = site.build(self.rewriter, site.input, self._parts(site, height), site.bias)
            self.rewriter.replace(site.last, [result])
        if site.last is not site.node:
            self.rewriter.erase(site.node)
        drop_unused(self.rewriter, site.weight)

    def _parts(self, site: Site, height: int) -> tuple[Value, Value, Value]:
        key = (site.weight, height, site.groups)
        if key not in self.stored:
            constant = site.weight.constant
            assert constant is not None
            crow, columns, values = site.compressed(height)
            name = site.weight.name
            kept = self.rewriter.constant(
                values, f"{name}_values", constant.kind, names=(), requires_grad=constant.requires_grad
            )
            indices = [
                self.rewriter.constant(tensor, f"{name}_{what}")
                for what, tensor in (("crow_indices", crow), ("col_indices", columns))
            ]
            self.stored[key] = (indices[0], indices[1], kept)
        return self.stored[key]


def _refusal(known: Model, site: Site, sizes: Sizes, height: int, times: tuple[float, float] | None) -> str | None:
    """Why a layer stays dense."""
    if times is not None:
        before, after = times
        slow = before < GAIN * after
        return f"it takes {1e3 * before:.3g} ms, and {1e3 * after:.3g} ms sparsely" if slow else None
    before, after = known.dense(sizes, site.groups), known.sparse(sizes, height, site.counts[height])
    if before < GAIN * after:
        return (
            f"with {site.density:.1%} of its weights it would take {1e3 * after:.3g} ms, and {1e3 * before:.3g} ms "
            "densely, by the model of this machine"
        )
    return None
