"""Fold batch norms, and scales and shifts of channels, into the convolution or linear layer beside them.

A batch norm in evaluation computes, for each channel,

    y = γ (x − μ) / √(σ² + ε) + β = s x + t,    s = γ / √(σ² + ε),    t = β − μ s.

Behind a layer W x + b it becomes part of it:

    s (W x + b) + t = (s W) x + (s b + t)                    row o of W times s[o]

Before a layer it does too, where the layer sees no padding, for padding puts 0 where the batch norm would put t:

    W (s x + t) + b = (W s) x + (W t + b)                    column i of W times s[i]; needs t = 0 or no padding

The same holds for x · c, x / c, x + c and x − c with a stored number a channel. All is computed in double precision
and rounded once. Reassociating: the sum is the same over the reals.

A weight that other nodes use too is cloned for a batch norm; for plain arithmetic only if it is small, since that
saves less than a second copy of an embedding costs. Nothing is folded where the result is to be trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.ir import Node, TensorType, Value
from graphopt.ir.dims import known_equal
from graphopt.passes.rules.reshapes import RESHAPES
from graphopt.passes.support.affine import ARITHMETIC, BATCH_NORMS, Affine, arithmetic, batch_norm
from graphopt.passes.support.contractions import CONTRACTIONS, Contraction, contraction
from graphopt.passes.support.evaluation import type_bytes
from graphopt.passes.support.lossless import LosslessRules
from graphopt.rewrite import Contract, Match, Rewriter, Rule, produced_by, var
from graphopt.rewrite.pattern import OpPattern, Pattern
from graphopt.rewrite.rule import Replacement


def _roots(names: Iterable[str], *args: Pattern) -> tuple[OpPattern, ...]:
    return tuple(OpPattern(name, args, rest=True) for name in names)


CLONE_LIMIT = 1 << 20
"""The bytes of a shared weight up to which it is cloned for the sake of plain arithmetic."""

NOT_FINITE = "the folded weight would not be finite"


class _Fold(Rule):
    contract = Contract.REASSOCIATING
    inference_only = True
    clones_any = False

    def layer(self, node: Node, match: Match) -> Contraction | str:
        """The layer at `node`, or why its weight cannot be rewritten."""
        layer = contraction(node, match.surroundings)
        if isinstance(layer, str) or self.clones_any or layer.weight.num_uses == 1:
            return layer
        shared = (type_bytes(layer.weight) or 0) > CLONE_LIMIT
        return f"the weight has {layer.weight.num_uses - 1} other uses and is large" if shared else layer


def _batch_norm(node: Node, match: Match, layer: Contraction, value: Value) -> Affine | str:
    """The batch norm, if its channels (axis 1) are those of the layer at `value`."""
    if layer.channel_axis(value) != 1:
        return "the batch norm's channels are not the layer's"
    return batch_norm(node, match.surroundings)


class _IntoPrevious(_Fold):
    """affine(layer(x)) → layer'(x)."""

    def affine(self, match: Match, layer: Contraction) -> Affine | str:
        """What follows the layer."""
        raise NotImplementedError

    def check(self, match: Match) -> str | None:
        """Both sides must be readable."""
        layer = self.layer(match.node("layer"), match)
        if isinstance(layer, str):
            return layer
        affine = self.affine(match, layer)
        return affine if isinstance(affine, str) else None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement | str:
        """Scale the rows of the weight; the shift goes to the bias."""
        layer = contraction(match.node("layer"), match.surroundings)
        assert isinstance(layer, Contraction)
        affine = self.affine(match, layer)
        assert isinstance(affine, Affine)
        weight, bias = None, None
        if affine.scale is not None:
            scale = affine.scale.to(layer.bias_tensor().device)
            weight = layer.scaled_outputs(scale)
            if weight is None:
                return NOT_FINITE
            bias = layer.bias_tensor() * scale
        if affine.shift is not None:
            bias = (layer.bias_tensor() if bias is None else bias) + affine.shift
        if layer.bias is None and affine.shift is None:
            bias = None
        source = layer.node.operands[0]
        assert source is not None
        value = layer.rebuilt(source, weight, bias, rewriter)
        return value if isinstance(value, str) else _replaced(match.root, self.finish(match, value, rewriter), rewriter)

    def finish(self, match: Match, value: Value, rewriter: Rewriter) -> Value:
        """What stands between the new layer and the uses of the root."""
        return value


class BatchNormIntoPrevious(_IntoPrevious):
    """batch_norm(layer(x)) → layer'(x)."""

    name = "batch-norm-into-previous"
    clones_any = True
    pattern = _roots(BATCH_NORMS, produced_by(CONTRACTIONS, "layer").once)

    def affine(self, match: Match, layer: Contraction) -> Affine | str:
        """The batch norm at the root."""
        return _batch_norm(match.root, match, layer, layer.node.results[0])


class BatchNormIntoFlattened(BatchNormIntoPrevious):
    """batch_norm(flatten(linear(x))) → flatten(linear'(x)): the channels are the last axis all along."""

    name = "batch-norm-into-flattened"
    pattern = _roots(BATCH_NORMS, produced_by(RESHAPES, "flat").once)

    def guard(self, match: Match) -> bool:
        """The reshape flattens all but the last axis of a linear layer that nothing else uses."""
        flat = match.node("flat")
        source, result = flat._operands[0], flat.results[0]
        if source is None or source.producer is None or source.producer.op.base != "aten.linear":
            return False
        match.bindings["layer"] = source.producer
        return source.num_uses == 1 and len(result.shape) == 2 and known_equal(result.shape[-1], source.shape[-1])

    def affine(self, match: Match, layer: Contraction) -> Affine | str:
        """The batch norm at the root, whose axis 1 is the last."""
        return batch_norm(match.root, match.surroundings)

    def finish(self, match: Match, value: Value, rewriter: Rewriter) -> Value:
        """Flatten as the root was."""
        return rewriter.create("aten.reshape", value, match.root.results[0].shape).result


_CONSTANT = var("constant", lambda v: isinstance(v, Value) and v.is_constant)


class AffineIntoPrevious(_IntoPrevious):
    """layer(x) · c → layer'(x), and the like."""

    name = "affine-into-previous"
    pattern = (
        *_roots(ARITHMETIC, produced_by(CONTRACTIONS, "layer").once),
        *_roots(ARITHMETIC, _CONSTANT, produced_by(CONTRACTIONS, "layer").once),
    )

    def guard(self, match: Match) -> bool:
        """The other side is a number or a constant: two computed values are no affine function of one."""
        operands = match.root._operands
        return len(operands) < 2 or any(v is not None and v.is_constant for v in operands)

    def affine(self, match: Match, layer: Contraction) -> Affine | str:
        """The arithmetic at the root."""
        return arithmetic(match.root, match.surroundings, layer.out_channels, layer.channel_axis)


class _IntoNext(_Fold):
    """layer(affine(x)) → layer'(x)."""

    def affine(self, match: Match, layer: Contraction) -> Affine | str:
        """What precedes the layer."""
        raise NotImplementedError

    def check(self, match: Match) -> str | None:
        """Both sides must be readable, and padding must not see a shift."""
        layer = self.layer(match.root, match)
        if isinstance(layer, str):
            return layer
        affine = self.affine(match, layer)
        if isinstance(affine, str):
            return affine
        if affine.shift is not None and bool(affine.shift.any()) and (layer.pads or layer.transposed):
            return "the layer pads with zeros, and the shift does not reach the padding"
        return None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement | str:
        """Scale the columns of the weight; its response to the shift goes to the bias."""
        layer = contraction(match.root, match.surroundings)
        assert isinstance(layer, Contraction)
        affine = self.affine(match, layer)
        assert isinstance(affine, Affine)
        device = layer.bias_tensor().device
        weight, bias = None, None
        if affine.scale is not None:
            weight = layer.scaled_inputs(affine.scale.to(device))
            if weight is None:
                return NOT_FINITE
        if affine.shift is not None and bool(affine.shift.any()):
            bias = layer.bias_tensor() + layer.response(affine.shift.to(device))
        return layer.rebuilt(affine.source, weight, bias, rewriter)


class BatchNormIntoNext(_IntoNext):
    """layer(batch_norm(x)) → layer'(x)."""

    name = "batch-norm-into-next"
    clones_any = True
    pattern = _roots(CONTRACTIONS, produced_by(BATCH_NORMS, "inner").once)

    def affine(self, match: Match, layer: Contraction) -> Affine | str:
        """The batch norm before the layer."""
        inner = match.node("inner")
        return _batch_norm(inner, match, layer, inner.results[0])


class AffineIntoNext(_IntoNext):
    """layer(x · c) → layer'(x), and the like."""

    name = "affine-into-next"
    pattern = _roots(CONTRACTIONS, produced_by(ARITHMETIC, "inner").once)

    def guard(self, match: Match) -> bool:
        """The other side is a number or a constant."""
        operands = match.node("inner")._operands
        return len(operands) < 2 or any(v is not None and v.is_constant for v in operands)

    def affine(self, match: Match, layer: Contraction) -> Affine | str:
        """The arithmetic before the layer."""
        return arithmetic(match.node("inner"), match.surroundings, layer.in_channels, layer.channel_axis)


def _replaced(root: Node, value: Value, rewriter: Rewriter) -> Replacement | str:
    """Only the first result of a batch norm is used; those that hold statistics die with it."""
    if len(root.results) == 1:
        return value
    assert isinstance(value.type, TensorType)
    if value.type != root.results[0].type:
        return "the type would change"
    rewriter.replace_value(root.results[0], value)
    rewriter.erase(root)
    return None


RULES: tuple[Rule, ...] = (
    BatchNormIntoPrevious(),
    BatchNormIntoFlattened(),
    AffineIntoPrevious(),
    BatchNormIntoNext(),
    AffineIntoNext(),
)


@dataclass(frozen=True)
class FoldBatchNorm(LosslessRules):
    """Fold batch norms and per-channel scales and shifts into neighbouring layers."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """Into the layer before, else into the layer behind."""
        return RULES
