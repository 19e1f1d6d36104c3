"""Re-orthogonalize and re-truncate factors, as after fine-tuning.

    A B,  A = Q_A R_A,  Bᵀ = Q_B R_B,  R_A R_Bᵀ = U S Vᵀ   →   (Q_A U √S) (√S Vᵀ Q_Bᵀ), cut to the largest S

Only the small core is decomposed, so it costs O((out + in) r²). Training moves weight between components: what it has
made superfluous goes. With calibration data the components are those of A B L, Σ = L Lᵀ what the pair reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph, Node, Value
from graphopt.passes.decomposition.options import steps
from graphopt.passes.decomposition.pairs import Pair, pair_at
from graphopt.passes.decomposition.problem import as_matrix, cholesky
from graphopt.passes.pruning import options
from graphopt.passes.support.constants import drop_unused, take_name
from graphopt.passes.support.data import batches_of
from graphopt.passes.support.globs import check_globs, first_fitting
from graphopt.passes.weight_pruning.layers import Layer, Reader
from graphopt.passes.weight_pruning.moments import measure
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

NOTHING = "nothing to truncate: no two layers in a row have nothing between them"


@dataclass(frozen=True)
class TruncateFactors(Pass):
    """Cut the inner channels of pairs of layers to the components that count.

    error: each pair loses this share of its output at most. energy: it keeps this share of its squared output. rank:
    what is left of each pair at most. Without any, error=1e-6: only what counts for nothing goes.
    multiple: ranks are multiples of this; small pairs may have any.
    data_aware: weigh errors by what pairs read on calibration data, or else on the sample inputs; by default where
        there are calibration data.
    layers: weights of pairs that are cut, by name or glob of either; by default all. ignore: what stays.
    samples: how many batches of calibration data are used, at most.

    Pairs are cut one after the other, so a chain of three layers is cut at both places.
    """

    contract = Contract.LOSSY
    conflicts = frozenset({"quantized"})

    error: float | None = None
    energy: float | None = None
    rank: int | None = None
    multiple: int = 1
    data_aware: bool | None = None
    layers: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    samples: int = 64

    def __post_init__(self) -> None:
        asked = [name for name in ("error", "energy", "rank") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise GraphOptError(f"{' and '.join(asked)} each say how far to go; give one of them")
        if self.error is not None and not 0 <= self.error < 1:
            raise GraphOptError(f"error is a share of a pair's output, at least 0 and below 1, got {self.error!r}")
        if self.energy is not None:
            options.kept_share("energy", self.energy)
        for name in ("rank", "multiple", "samples"):
            if getattr(self, name) is not None:
                options.whole(name, getattr(self, name))
        for name in ("layers", "ignore"):
            object.__setattr__(self, name, options.names(name, getattr(self, name)))

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: data_aware without data, or data that does not fit.
            UnknownNameError: a name in `layers` or `ignore` that no weight of a pair has.
        """
        with requested():
            nodes = [node for node in graph if isinstance(pair_at(node, graph), Pair)]
            names = [name for node in nodes for name in _names(_pair(node, graph))]
            check_globs((*self.layers, *self.ignore), names, "weight of a pair", f"It was given to {self.name}.")
            if not nodes:
                return PassResult(False, notes=[NOTHING])
            sets = self._data(graph, context)
        rewriter = Rewriter(graph, context.listeners)
        notes = []
        for node in nodes:
            pair = _pair(node, graph)
            if self._is_chosen(_names(pair)):
                notes.append(self._cut(pair, _second_moment(pair, graph, sets), rewriter))
        return PassResult(rewriter.changed, notes=notes)

    def _data(self, graph: Graph, context: PassContext) -> list[list[object]]:
        if self.data_aware is False or (self.data_aware is None and context.calibration is None):
            return []
        return batches_of(graph, context, self.samples, self.name, "to weigh errors by")

    def _is_chosen(self, names: list[str]) -> bool:
        if first_fitting(self.ignore, names) is not None:
            return False
        return not self.layers or first_fitting(self.layers, names) is not None

    def _cut(self, pair: Pair, second: torch.Tensor | None, rewriter: Rewriter) -> str:
        first, last = pair.matrices()
        title = f"{pair.weights[0].name} and {pair.weights[1].name}"
        if not all(bool(matrix.isfinite().all()) for matrix in (first, last)):
            return f"{title} stay: a weight is not finite"
        squares, turn, two = reduced(first, last, second)
        tails = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
        rank = self._rank(tails, len(first))
        if rank >= len(first):
            return f"{title} keep rank {len(first)}"
        error = float((tails[rank] / tails[0].clamp(min=1e-300)).sqrt())
        _store(pair, pair.from_matrices(turn[:rank] @ first, two[:, :rank]), turn[:rank], rewriter)
        return f"{title}: rank {len(first)} → {rank}, error {error:.3g}"

    def _rank(self, tails: torch.Tensor, full: int) -> int:
        most = len(tails) - 1  # the least side of the product
        if self.rank is not None:
            return min(self.rank, most)
        bound = 1 - self.energy if self.energy is not None else (1e-6 if self.error is None else self.error) ** 2
        least = max(int((tails[:-1] > bound * float(tails[0])).sum()), 1)
        return min(next((step for step in steps(full, self.multiple) if step >= least), full), most)


def reduced(
    first: torch.Tensor, last: torch.Tensor, second: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The squares of the singular values of A B L, and T and A' with A' T B = A B in their order, balanced.

    first: B, [r, columns]. last: A, [rows, r]. second: Σ, [columns, columns]. T turns what stands between.
    """
    whitened = first if second is None else first @ cholesky(second)
    own = torch.linalg.qr(last)
    other = torch.linalg.qr(whitened.t())
    left, values, _ = torch.linalg.svd(own.R @ other.R.t(), full_matrices=False)
    turn = left.t() @ own.R  # A B = (Q_A U) (Uᵀ R_A) B: no inverse is needed
    norms = (turn @ first).norm(dim=1)
    scale = torch.where(norms > 0, norms.clamp(min=1e-300).rsqrt(), torch.ones_like(norms))
    return values.square(), turn * scale.unsqueeze(1), (own.Q @ left) / scale


def _pair(node: Node, graph: Graph) -> Pair:
    found = pair_at(node, graph)
    assert isinstance(found, Pair)
    return found


def _names(pair: Pair) -> list[str]:
    return [value.constant.names[0] if value.constant.names else value.name for value in pair.weights]  # type: ignore[union-attr]


def _second_moment(pair: Pair, graph: Graph, sets: list[list[object]]) -> torch.Tensor | None:
    """Σ of what the matrix B reads, as its columns are ordered."""
    if not sets:
        return None
    weight = pair.weights[0]
    layer = Layer(weight, "conv" if pair.spatial else "linear", 1, (Reader(pair.first, pair.first.operands[0]),))
    moments = measure(graph, [layer], sets, gram=True).get(layer)
    if moments is None or moments.gram is None or not moments.count:
        return None
    gram = moments.gram[0].double() / moments.count
    order = as_matrix(torch.arange(weight.constant.tensor[0].numel()).reshape(1, *weight.shape[1:]))[0]  # type: ignore[union-attr]
    inverse = order.argsort()
    return gram[inverse][:, inverse]


def _store(pair: Pair, weights: tuple[torch.Tensor, torch.Tensor], turn: torch.Tensor, rewriter: Rewriter) -> None:
    """Put narrower weights in the place of the old ones. turn: what turns the first bias, [rank, middle]."""
    stored: dict[Value, torch.Tensor] = dict(zip(pair.weights, weights))
    bias = pair.biases[0]
    if bias is not None:
        assert bias.constant is not None
        stored[bias] = turn @ bias.constant.tensor.detach().double()
    news = []
    for old, tensor in stored.items():
        assert old.constant is not None
        news.append((old, rewriter.constant_like(old, tensor.to(old.constant.tensor.dtype).contiguous())))
    replaced = dict(news)
    with rewriter.at(pair.second, TruncateFactors.name):
        first = rewriter.rebuild(pair.first, _exchanged(pair.first, replaced))
        between = {pair.first.result: first.result, **replaced}
        second = rewriter.rebuild(pair.second, _exchanged(pair.second, between))
    rewriter.replace(pair.second, [second.result])
    rewriter.erase(pair.first)
    for old, new in news:
        drop_unused(rewriter, old)
        take_name(rewriter, new, old.name)


def _exchanged(node: Node, others: Mapping[Value, Value]) -> list[Value | None]:
    return [None if value is None else others.get(value, value) for value in node.operands]
