"""Prune single weights, small blocks of them, or n of m neighbours.

    W → W ⊙ M,   M of zeros and ones: the weights with the lowest scores go

Where the result is trained, the mask stays as a buffer `….weight_mask` that multiplies the weight at every call, so
that no pruned weight grows again; `fold-masks`, or `CompiledModel.finalize()`, makes it part of the weight. Elsewhere
the weight is stored with its zeros. Pruning again prunes on: what is gone stays gone.

Zeros alone make no dense engine faster. They are what `remove-zero-channels` and sparse kernels work on.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real

import torch

from graphopt.errors import GraphOptError, InputError, requested
from graphopt.ir import ConstantKind, Graph, Value
from graphopt.passes.fold_masks import MASK
from graphopt.passes.pruning import options
from graphopt.passes.pruning.criteria.batches import Batch, read_batches
from graphopt.passes.pruning.criteria.objective import Loss, Objective
from graphopt.passes.support.constants import drop_unused, take_name
from graphopt.passes.support.globs import check_globs, first_fitting
from graphopt.passes.weight_pruning.evidence import gradients
from graphopt.passes.weight_pruning.layers import Layer, find_layers
from graphopt.passes.weight_pruning.methods import SPARSEGPT, Evidence, Method, checked, get_method
from graphopt.passes.weight_pruning.moments import Moments, measure
from graphopt.passes.weight_pruning.patterns import Pattern, Scope, masks, parse_pattern, share
from graphopt.passes.weight_pruning.sparsegpt import sparsegpt
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

NOTHING = (
    "no weight to prune: only parameters that linear, convolution, matmul or recurrent layers read are, and "
    "fold-batch-norm or fold-constants before may have made constants of them"
)


@dataclass(frozen=True)
class PruneWeights(Pass):
    """Set the least important weights to zero.

    sparsity: the share of zeros, at least 0 and below 1. n:m patterns have their own.
    method: magnitude, lamp, random, taylor, wanda, sparsegpt, or a function of scores (see `weight_pruning.methods`).
    pattern: unstructured, n:m (n of m neighbouring input channels stay, as in 2:4), or blocks of r outputs times c
        input channels (4x1).
    scope: who competes: the weights of a row, of a layer, or of all layers ("global"); by default what the method says.
    layers: shares for some layers, by name or glob of the weight's name.
    ignore: names or globs of weights that are left alone.
    threshold: of magnitude, in place of `sparsity`: what is smaller goes, as after training with an L1 regularizer.
    loss: of taylor; a function of the outputs (and of the targets, if calibration yields pairs), or "cross-entropy".
    samples: of how many batches of calibration data to make use.
    damping: of sparsegpt, relative to the mean diagonal of X X^T.
    seed: of random.
    masks: whether masks stay apart; by default where the result is trained.

    wanda, sparsegpt and taylor run the graph on the calibration data, or else on the sample inputs.
    """

    contract = Contract.LOSSY

    sparsity: float = 0.5
    method: str | Callable[..., torch.Tensor] = "magnitude"
    pattern: str = "unstructured"
    scope: Scope | None = None
    layers: dict[str, float] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    threshold: float | None = None
    loss: Loss | None = None
    samples: int = 128
    damping: float = 0.01
    seed: int = 0
    masks: bool | None = None

    def __post_init__(self) -> None:
        layers = options.by_name("layers", self.layers, '{"fc1.weight": 0.9}')
        for name, share_ in (("sparsity", self.sparsity), *layers.items()):
            if isinstance(share_, bool) or not isinstance(share_, Real) or not 0 <= float(share_) < 1:
                hint = "; at 1 nothing would be left of it" if isinstance(share_, Real) and share_ == 1 else ""
                raise GraphOptError(f"{name} is a share of zeros, at least 0 and below 1, got {share_!r}{hint}")
        for name, least in (("samples", 1), ("seed", 0)):
            options.whole(name, getattr(self, name), least)
        object.__setattr__(self, "ignore", options.names("ignore", self.ignore))
        if self.threshold is not None and self.method != "magnitude":
            raise GraphOptError(f"threshold is an option of magnitude, not of {self.method}")
        if self.threshold is not None and not self.threshold >= 0:
            raise GraphOptError(f"threshold is a magnitude, 0 or more, got {self.threshold}")
        if self.method == SPARSEGPT and self.scope not in (None, "layer"):
            raise GraphOptError("sparsegpt makes up for errors within a layer; leave scope out")
        kind = self.kind
        if self.layers and (kind.window or self.threshold is not None):
            told = f"pattern {self.pattern}" if kind.window else "threshold"
            raise GraphOptError(
                f"{told} says how much of each layer goes, so shares for `layers` would be without effect"
            )
        if self.method != SPARSEGPT:
            get_method(self.method, data=False)

    @property
    def kind(self) -> Pattern:
        """The pattern, read."""
        return parse_pattern(self.pattern)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: the method needs data, and there is none.
            UnknownNameError: a name in `layers` or `ignore` that no weight has.
            GraphOptError: every weight is ignored, or scores are not numbers.
        """
        with requested():
            layers = self._chosen(find_layers(graph))
            if not layers:
                return PassResult(False, notes=[NOTHING])
            if self.method == SPARSEGPT:
                pruned, notes = self._compensated(graph, layers, context)
            else:
                pruned, notes = self._scored(graph, layers, context)
        rewriter = Rewriter(graph, context.listeners)
        apart = context.trainable if self.masks is None else self.masks
        for layer, (weight, kept) in pruned.items():
            if _differs(layer, weight, kept, apart):
                _store(layer, weight, kept, apart, rewriter)
                gone = "" if kept.any() else "; nothing of it is left: ask for less, or name it in `ignore`"
                notes.append(f"{layer.name} {list(layer.shape)}: {share(kept):.1%} zeros ({self._title}){gone}")
        return PassResult(rewriter.changed, notes=notes)

    @property
    def _title(self) -> str:
        name = self.method if isinstance(self.method, str) else getattr(self.method, "__name__", "custom")
        return name if self.pattern == "unstructured" else f"{name}, {self.pattern}"

    # Which layers, and how much of each

    def _chosen(self, layers: Sequence[Layer]) -> list[Layer]:
        names = [layer.name for layer in layers]
        check_globs((*self.layers, *self.ignore), names, "weight", f"It was given to {self.name}.")
        found = [layer for layer in layers if first_fitting(self.ignore, [layer.name]) is None]
        if layers and not found:
            raise GraphOptError(f"{self.name} has no weight to prune: `ignore` names all {len(layers)} of them")
        return found

    def _sparsity(self, layer: Layer) -> float:
        given = [s for glob, s in self.layers.items() if fnmatch.fnmatchcase(layer.name, glob)]
        return given[-1] if given else self.sparsity

    # The methods

    def _scored(self, graph: Graph, layers: list[Layer], context: PassContext) -> tuple[_Pruned, list[str]]:
        method = get_method(self.method, data=context.calibration is not None or bool(context.samples))
        evidence, notes = self._evidence(graph, layers, method, context)
        layers = list(evidence)
        scores = []
        for layer, known in evidence.items():
            found = checked(method.scores(known), known, layer.name)
            gone = layer.to_matrices(layer.mask_tensor) == 0
            scores.append(found.masked_fill(gone, 0.0 if self.kind.rows * self.kind.columns > 1 else -torch.inf))
        if self.threshold is not None:
            kept = [known.weight.abs() >= self.threshold for known in evidence.values()]
        else:
            sparsities, channels = [self._sparsity(layer) for layer in layers], [layer.channels for layer in layers]
            kept = masks(scores, channels, sparsities, self.kind, self.scope or method.scope)
        marks = [layer.from_matrices(k) & (layer.mask_tensor != 0) for layer, k in zip(layers, kept)]
        return {layer: (layer.tensor * mark, mark) for layer, mark in zip(layers, marks)}, notes

    def _evidence(
        self, graph: Graph, layers: list[Layer], method: Method, context: PassContext
    ) -> tuple[dict[Layer, Evidence], list[str]]:
        generator = torch.Generator().manual_seed(self.seed)
        found = {layer: Evidence(layer.to_matrices(layer.tensor), generator=generator) for layer in layers}
        if method.needs == "gradients":
            if self.loss is None:
                raise InputError(f"{self._title} needs a loss: loss=f(outputs) or f(outputs, targets), or a name")
            slopes = gradients(graph, layers, self._batches(graph, context), Objective(self.loss))
            for layer, slope in slopes.items():
                found[layer].gradient = layer.to_matrices(slope)
        if method.needs != "inputs":
            return found, []
        moments, notes = self._moments(graph, layers, context, gram=False)
        for layer, moment in moments.items():
            found[layer].norms = moment.squares.sqrt()
        return {layer: found[layer] for layer in moments}, notes

    def _compensated(self, graph: Graph, layers: list[Layer], context: PassContext) -> tuple[_Pruned, list[str]]:
        moments, notes = self._moments(graph, layers, context, gram=True)
        pruned: _Pruned = {}
        for layer, moment in moments.items():
            weight, kept = self._solve(layer, moment)
            pruned[layer] = weight, kept
            before, after = _output_error(layer, layer.tensor * kept, moment), _output_error(layer, weight, moment)
            notes.append(f"{layer.name}: relative output error {after:.3g}, {before:.3g} without compensation")
        return pruned, notes

    def _solve(self, layer: Layer, moment: Moments) -> tuple[torch.Tensor, torch.Tensor]:
        matrices, given = layer.to_matrices(layer.tensor), layer.to_matrices(layer.mask_tensor) != 0
        assert moment.gram is not None
        try:
            solved = [
                sparsegpt(
                    matrix,
                    gram,
                    channels=layer.channels,
                    sparsity=self._sparsity(layer),
                    pattern=self.kind,
                    damping=self.damping,
                    given=marks,
                )
                for matrix, gram, marks in zip(matrices, moment.gram, given)
            ]
        except GraphOptError as error:
            raise GraphOptError(f"{layer.name}: {error}") from error
        weights, kept = (torch.stack(parts) for parts in zip(*solved))
        return layer.from_matrices(weights), layer.from_matrices(kept)

    def _moments(
        self, graph: Graph, layers: list[Layer], context: PassContext, *, gram: bool
    ) -> tuple[dict[Layer, Moments], list[str]]:
        moments = measure(graph, layers, [b.inputs for b in self._batches(graph, context)], gram=gram)
        missing = [layer.name for layer in layers if layer not in moments]
        notes = [f"{name} was left dense: what it reads is inside a recurrent operator" for name in missing]
        return moments, notes

    def _batches(self, graph: Graph, context: PassContext) -> list[Batch]:
        if context.calibration is not None:
            return read_batches(graph, context.calibration, self.samples)
        if not context.samples:
            raise InputError(f"{self._title} needs data to run the model on: give calibration=, or example inputs")
        return [Batch(list(inputs), inputs) for inputs in context.samples[: self.samples]]


_Pruned = dict[Layer, tuple[torch.Tensor, torch.Tensor]]
"""The new weight of each layer, and the marks of what stays, in the weight's shape."""


def _differs(layer: Layer, weight: torch.Tensor, kept: torch.Tensor, apart: bool) -> bool:
    if layer.mask is not None or apart:
        return not torch.equal(kept, layer.mask_tensor != 0) or not torch.equal(weight, layer.tensor)
    return not torch.equal(weight, layer.tensor)


def _output_error(layer: Layer, weight: torch.Tensor, moment: Moments) -> float:
    """‖ΔW X‖ / ‖W X‖."""
    assert moment.gram is not None
    old, gram = layer.to_matrices(layer.tensor).double(), moment.gram.double()
    change = layer.to_matrices(weight).double() - old
    lost, whole = (torch.einsum("grc,gcd,grd->", m, gram, m) for m in (change, old))
    return float((lost / whole.clamp(min=torch.finfo(torch.float64).tiny)).clamp(min=0).sqrt())


def _store(layer: Layer, weight: torch.Tensor, kept: torch.Tensor, apart: bool, rewriter: Rewriter) -> None:
    """Put the new weight, and its mask if it stays apart, in the place of the old ones, for all that read it."""
    new = stored = _weight_like(layer, weight, rewriter)
    mask: Value | None = None
    if apart or layer.mask is not None:
        mask = _mask_like(layer, kept, rewriter)
        users = layer.weight.users
        with rewriter.at(users[0] if len(users) == 1 else next(iter(rewriter.graph)), PruneWeights.name):
            new = rewriter.create("aten.mul.Tensor", new, mask, name=f"{layer.name}_masked").result
    if layer.product is not None:
        rewriter.replace(layer.product, [new])
    rewriter.replace_value(layer.weight, new)
    drop_unused(rewriter, layer.weight, layer.mask)
    take_name(rewriter, stored, layer.weight.name)
    if mask is not None and layer.mask is not None:
        take_name(rewriter, mask, layer.mask.name)


def _weight_like(layer: Layer, weight: torch.Tensor, rewriter: Rewriter) -> Value:
    constant = layer.weight.constant
    assert constant is not None
    return rewriter.constant(
        weight,
        layer.weight.name,
        constant.kind,
        names=constant.names,
        requires_grad=constant.requires_grad,
        device=layer.weight.type.device,  # type: ignore[union-attr]
        kept=constant.kept,
    )


def _mask_like(layer: Layer, kept: torch.Tensor, rewriter: Rewriter) -> Value:
    constant = layer.weight.constant
    assert constant is not None
    if layer.mask is not None and layer.mask.constant is not None:
        old = layer.mask.constant
        return rewriter.constant_like(layer.mask, kept.to(old.tensor.dtype))
    return rewriter.constant(
        kept.to(constant.tensor.dtype),
        f"{layer.name}{MASK}",
        ConstantKind.BUFFER,
        names=tuple(name + MASK for name in constant.names),
        device=layer.weight.type.device,  # type: ignore[union-attr]
        kept=constant.kept,
    )
