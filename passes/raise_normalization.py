"""Raise normalizations that are written out to `layer_norm` and `rms_norm`.

    (x − μ) / √(v + ε) → layer_norm(x),    μ = mean x,    v = mean (x − μ)² = mean x² − μ²
    x / √(mean x² + ε) → rms_norm(x)       norm(x) · w → norm(x, w)       layer_norm(x) + b → layer_norm(x, b)

Means are over the last dims. √ may stand as a reciprocal root or a power; the scale may be multiplied into the root
first, as Keras does, with the shift apart: x · s + (b − μ s). ε is where it is written: 1 / (√v + ε) is another
function, and stays. Where a half-precision x is widened for the norm and the result narrowed again, the casts go, too,
since the operators compute in single precision anyway; so do reshapes of the other dims. Reassociating.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.ir import DType, Node, TensorType, Value
from graphopt.ir.dims import shapes_known_equal
from graphopt.passes.rules.casts import cast_source
from graphopt.passes.rules.conditions import dtype_of, is_floating
from graphopt.passes.rules.reshapes import RESHAPE_NAMES, is_reshape
from graphopt.passes.support.lossless import LosslessRules
from graphopt.passes.support.numbers import number_of
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, either, produced_by, var
from graphopt.rewrite.pattern import OpPattern, Pattern
from graphopt.rewrite.rule import Replacement

_LAYER, _RMS = "aten.layer_norm", "aten.rms_norm"
_CASTS = ("aten._to_copy", "aten.to")
_HALVES = (DType.F16, DType.BF16)
x, w, b = var("x"), var("w"), var("b")
_DIMS, _EPS = var("dims"), var("eps")


def _mean(value: Pattern) -> OpPattern:
    return aten.mean.dim(value, _DIMS, True)


def _square(value: Pattern) -> Pattern:
    return either(aten.mul.Tensor(value, value), aten.pow(value, 2), aten.square(value))


_CENTRED = aten.sub.Tensor(x, _mean(x))
_VARIANCE = either(
    _mean(_square(_CENTRED)),
    aten.sub.Tensor(_mean(_square(x)), _square(_mean(x))),
    aten.var.dim(x, _DIMS, False, True),
    aten.var.correction(x, _DIMS, correction=0, keepdim=True),
)


def _root(spread: Pattern) -> OpPattern:
    return aten.sqrt(aten.add(spread, _EPS))


def _inverse(spread: Pattern) -> Pattern:
    return either(aten.rsqrt(aten.add(spread, _EPS)), aten.reciprocal(_root(spread)))


def _over_root(numerator: Pattern, spread: Pattern) -> tuple[OpPattern, ...]:
    """numerator / √(spread + ε)."""
    return (aten.mul.Tensor(numerator, _inverse(spread)), aten.div.Tensor(numerator, _root(spread)))


class _RaiseNorm(Rule):
    """A norm over the last dims, as its core or with a scale and shift."""

    contract = Contract.REASSOCIATING
    operator = ""

    def guard(self, match: Match) -> bool:
        """Floats, and a number for ε."""
        eps = number_of(match["eps"], match.surroundings)
        return is_floating(match["x"]) and eps is not None and eps >= 0

    def check(self, match: Match) -> str | None:
        """The dims are the last ones, and of known sizes; scale and shift have them."""
        shape = _normalized_shape(match["x"], match["dims"])
        if isinstance(shape, str):
            return shape
        vectors = [match.bindings.get(name) for name in ("w", "b")]
        fits = all(v is None or _fits(v, shape, match.root.results[0]) for v in vectors)
        return None if fits else "the scale or shift is not one number for each place that is normalized"

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create the operator."""
        shape = _normalized_shape(match["x"], match["dims"])
        assert not isinstance(shape, str)
        eps = float(number_of(match["eps"], match.surroundings) or 0.0)
        vectors = [_vector(match.bindings.get(name), shape, rewriter) for name in ("w", "b")]
        if self.operator == _RMS:
            return rewriter.create(_RMS, match["x"], shape, vectors[0], eps).result
        return rewriter.create(_LAYER, match["x"], shape, *vectors, eps).result


class RaiseLayerNorm(_RaiseNorm):
    """(x − mean x) / √(var x + ε) → layer_norm(x)."""

    name = "raise-layer-norm"
    operator = _LAYER
    pattern = _over_root(_CENTRED, _VARIANCE)


class RaiseScaledLayerNorm(_RaiseNorm):
    """(x − μ) · (w / √(v + ε)) and x · s + (b − μ s) with s = w / √(v + ε) → layer_norm(x, w, b)."""

    name = "raise-scaled-layer-norm"
    operator = _LAYER
    pattern = (
        aten.mul.Tensor(_CENTRED, aten.mul.Tensor(_inverse(_VARIANCE), w)),
        *(
            aten.add.Tensor(aten.mul.Tensor(x, scale), aten.sub.Tensor(b, aten.mul.Tensor(_mean(x), scale)))
            for scale in (aten.mul.Tensor(_inverse(_VARIANCE), w), _inverse(_VARIANCE))
        ),
    )


class RaiseRmsNorm(_RaiseNorm):
    """x / √(mean x² + ε) → rms_norm(x)."""

    name = "raise-rms-norm"
    operator = _RMS
    pattern = _over_root(x, _mean(_square(x)))


class _IntoNorm(Rule):
    """A vector joins the norm before it."""

    contract = Contract.REASSOCIATING

    def guard(self, match: Match) -> bool:
        """The norm has no such vector yet."""
        return self.is_free(match.node("norm"))

    def is_free(self, norm: Node) -> bool:
        """True if the norm can take the vector."""
        raise NotImplementedError

    def check(self, match: Match) -> str | None:
        """The vector is one number for each place that is normalized."""
        shape = match.node("norm").attributes["normalized_shape"]
        fits = _fits(match["v"], shape, match.root.results[0])
        return None if fits else "the other operand is not one number for each place that is normalized"

    def joined(self, match: Match, rewriter: Rewriter) -> Value:
        """The vector as the norm takes it."""
        vector = _vector(match["v"], match.node("norm").attributes["normalized_shape"], rewriter)
        assert vector is not None
        return vector


class ScaleIntoNorm(_IntoNorm):
    """norm(x) · w → norm(x, w)."""

    name = "scale-into-norm"
    pattern = aten.mul.Tensor(produced_by((_LAYER, _RMS), "norm").once, var("v"))

    def is_free(self, norm: Node) -> bool:
        """No scale and no shift."""
        return all(v is None for v in norm._operands[1:])

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The norm with its scale."""
        return rewriter.rebuild(match.node("norm"), _with(match.node("norm"), 1, self.joined(match, rewriter))).result


class ShiftIntoNorm(_IntoNorm):
    """layer_norm(x, w) + b → layer_norm(x, w, b)."""

    name = "shift-into-norm"
    pattern = aten.add.Tensor(produced_by((_LAYER,), "norm").once, var("v"))

    def is_free(self, norm: Node) -> bool:
        """No shift."""
        return len(norm._operands) < 3 or norm._operands[2] is None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The norm with its shift."""
        return rewriter.rebuild(match.node("norm"), _with(match.node("norm"), 2, self.joined(match, rewriter))).result


class NormInHalf(Rule):
    """narrow(norm(widen(x))) → norm(x), for half precision, which the norm itself widens."""

    name = "norm-in-half"
    contract = Contract.REASSOCIATING
    pattern = tuple(
        getattr(aten, name.removeprefix("aten."))(produced_by((_LAYER, _RMS), "norm").once, ...) for name in _CASTS
    )

    def guard(self, match: Match) -> bool:
        """From half precision and back to it, without a scale or shift of another type."""
        norm = match.node("norm")
        widened = norm._operands[0]
        source = cast_source(widened.producer) if widened is not None and widened.producer is not None else None
        if source is None or cast_source(match.root) is None or any(v is not None for v in norm._operands[1:]):
            return False
        narrow = dtype_of(match.root.results[0])
        return narrow in _HALVES and dtype_of(source) is narrow and dtype_of(widened) is DType.F32

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The norm of what was widened."""
        norm = match.node("norm")
        assert norm._operands[0] is not None and norm._operands[0].producer is not None
        source = cast_source(norm._operands[0].producer)
        assert source is not None
        return rewriter.rebuild(norm, _with(norm, 0, source)).result


class NormOfReshaped(Rule):
    """reshape(norm(reshape(x))) → norm(x): the first leaves the normalized dims alone, the second undoes it."""

    name = "norm-of-reshaped"
    contract = Contract.REASSOCIATING
    pattern = tuple(getattr(aten, name)(produced_by((_LAYER, _RMS), "norm").once, ...) for name in RESHAPE_NAMES)

    def guard(self, match: Match) -> bool:
        """What was reshaped has the shape of the result, and ends in the dims that are normalized."""
        norm = match.node("norm")
        flat = norm._operands[0]
        before = flat.producer if flat is not None else None
        source = before._operands[0] if before is not None and is_reshape(before) else None
        if source is None or not is_reshape(match.root) or source.type != match.root.results[0].type:
            return False
        wanted = norm.attributes["normalized_shape"]
        return shapes_known_equal(source.type.shape[-len(wanted) :], wanted)  # type: ignore[union-attr]

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The norm of what was reshaped."""
        norm = match.node("norm")
        assert norm._operands[0] is not None and norm._operands[0].producer is not None
        source = norm._operands[0].producer._operands[0]
        assert source is not None
        return rewriter.rebuild(norm, _with(norm, 0, source)).result


def _with(node: Node, index: int, value: Value) -> tuple[Value | None, ...]:
    operands = [*node._operands, *[None] * (index + 1 - len(node._operands))]
    operands[index] = value
    return tuple(operands)


def _normalized_shape(value: Value, dims: Any) -> tuple[int, ...] | str:
    assert isinstance(value.type, TensorType)
    rank = value.type.rank
    axes = sorted(d % rank for d in (dims if isinstance(dims, tuple) else (dims,))) if rank and dims else []
    if not axes or axes != list(range(rank - len(axes), rank)):
        return "the means are not over the last dims"
    shape = tuple([d for d in value.type.shape[axes[0] :] if isinstance(d, int)])
    return shape if len(shape) == len(axes) else "the sizes that are normalized are not static"


def _fits(vector: Any, shape: tuple[int, ...], result: Value) -> bool:
    """True for a tensor of the result's type and the normalized shape, save for dims of size 1 before it."""
    if (
        not isinstance(vector, Value)
        or not isinstance(vector.type, TensorType)
        or not isinstance(result.type, TensorType)
    ):
        return False
    own = vector.type.shape
    ahead, last = own[: -len(shape)], own[-len(shape) :]
    return vector.type.dtype is result.type.dtype and last == shape and all(d == 1 for d in ahead)


def _vector(vector: Value | None, shape: tuple[int, ...], rewriter: Rewriter) -> Value | None:
    if vector is None or vector.type.shape == shape:  # type: ignore[union-attr]
        return vector
    return rewriter.create("aten.reshape", vector, shape).result


RULES: tuple[Rule, ...] = (
    RaiseScaledLayerNorm(),
    RaiseLayerNorm(),
    RaiseRmsNorm(),
    NormInHalf(),
    ScaleIntoNorm(),
    ShiftIntoNorm(),
    NormOfReshaped(),
)


@dataclass(frozen=True)
class RaiseNormalization(LosslessRules):
    """Make layer and RMS norms of their parts."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """Cores first, then what joins them."""
        return RULES
