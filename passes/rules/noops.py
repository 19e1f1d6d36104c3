"""Operators that give back what they were given.

    dropout in evaluation, clone, alias, padding by nothing, pooling over one element, a sum over a dim of size 1, …

All bitwise, except averages and sums over one element, which turn −0 into 0 (they start from 0).
Where the result is trained, `detach` and dropouts that follow the module's mode stay.
"""

from __future__ import annotations

from graphopt.ir import Node, TensorType, Value, types_known_equal
from graphopt.ops.effects import is_random
from graphopt.rewrite import Algebra, Contract, Match, Rewriter, Rule, aten, var
from graphopt.rewrite.rule import Replacement

BITWISE, VALUE_EXACT = Contract.BITWISE, Contract.VALUE_EXACT
x = var("x")


class _Identity(Rule):
    """Replace the root by its first operand."""

    contract = BITWISE

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The operand itself."""
        return match["x"]


class Copies(_Identity):
    """clone, contiguous, alias, lift: values have no memory format and no identity in the IR."""

    name = "drop-copy"
    pattern = tuple(getattr(aten, n)(x, ...) for n in ("clone", "contiguous", "alias", "lift", "lift_fresh_copy"))


class Detach(_Identity):
    """detach(x) → x, in inference."""

    name = "drop-detach"
    inference_only = True
    pattern = aten.detach(x)


_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")


class DropoutInEvaluation(_Identity):
    """Dropout that never draws: in evaluation, or with probability 0."""

    name = "dropout-in-evaluation"
    pattern = tuple(getattr(aten, name)(x, ...) for name in _DROPOUTS)

    def check(self, match: Match) -> str | None:
        """It must not be in training, nor follow a module that will be."""
        return "dropout in training" if is_random(match.root, match.surroundings.trainable) else None


_SAME_TYPE = [
    "reshape",
    "view",
    "_unsafe_view",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "expand",
    "expand_as",
    "view_as",
    "broadcast_to",
    "slice",
    "narrow",
    "repeat",
    "tile",
]


class NoopView(_Identity):
    """A view that has the type of its source.

    Each of these operators keeps the order of the elements and, for one shape, can only be the identity: a slice as
    long as its source is all of it, and a repetition of the same size repeats once. Transposes are not among them.
    """

    name = "noop-view"
    pattern = tuple(getattr(aten, name)(x, ...) for name in _SAME_TYPE)

    def guard(self, match: Match) -> bool:
        """The types are known to be equal."""
        before, after = match["x"].type, match.root.results[0].type
        return before == after or types_known_equal(before, after)


class NoopPad(_Identity):
    """Padding by nothing on every side. (A pad that crops one side and extends the other keeps the shape only.)"""

    name = "noop-pad"
    pattern = tuple(
        getattr(aten, name)(x, ...)
        for name in [
            "constant_pad_nd",
            "pad",
            "reflection_pad1d",
            "reflection_pad2d",
            "reflection_pad3d",
            "replication_pad1d",
            "replication_pad2d",
            "replication_pad3d",
        ]
    )

    def guard(self, match: Match) -> bool:
        """All sizes are zero."""
        sizes = match.root.attributes.get("pad", match.root.attributes.get("padding"))
        return sizes is not None and all(isinstance(size, int) and size == 0 for size in sizes)


class NoopRoll(_Identity):
    """A roll by nothing, and a flip of nothing."""

    name = "noop-roll"
    pattern = (aten.roll(x, ...), aten.flip(x, ...))

    def guard(self, match: Match) -> bool:
        """No shift and no dim."""
        attributes = match.root.attributes
        if match.root.op.base == "aten.roll":
            return all(isinstance(shift, int) and shift == 0 for shift in attributes["shifts"])
        return attributes["dims"] == ()


class MaxPoolOfOne(_Identity):
    """Max pooling with kernel 1 and stride 1."""

    name = "max-pool-of-one"
    pattern = tuple(getattr(aten, f"max_pool{n}d")(x, ...) for n in (1, 2, 3))

    def guard(self, match: Match) -> bool:
        """Every window is one element, none is skipped, and nothing is padded."""
        return _window_of_one(match.root) and _all(match.root.attr("dilation"), 1)


class AveragePoolOfOne(_Identity):
    """Average pooling with kernel 1 and stride 1, or of an image of one element."""

    name = "average-pool-of-one"
    contract = VALUE_EXACT
    pattern = tuple(getattr(aten, f"avg_pool{n}d")(x, ...) for n in (1, 2, 3))

    def guard(self, match: Match) -> bool:
        """Every window is one element, divided by 1."""
        node = match.root
        if node.attributes.get("divisor_override") not in (None, 1):
            return False
        return _window_of_one(node) or (_image_of_one(node, match["x"]) and _all(node.attr("padding"), 0))


class AdaptivePoolToSameSize(_Identity):
    """Adaptive average pooling to the size that x has: every window is one element."""

    name = "adaptive-pool-to-same-size"
    contract = VALUE_EXACT
    pattern = tuple(getattr(aten, f"adaptive_avg_pool{n}d")(x, ...) for n in (1, 2, 3))

    def guard(self, match: Match) -> bool:
        """The types are known to be equal."""
        return types_known_equal(match["x"].type, match.root.results[0].type)


class ReduceUnitDim(Rule):
    """A sum, mean, maximum or minimum over dims of size 1 is x, without these dims unless they are kept."""

    name = "reduce-unit-dim"
    contract = VALUE_EXACT
    pattern = tuple(getattr(aten, name)(x, ...) for name in ("sum.dim_IntList", "mean.dim", "amax", "amin"))

    def guard(self, match: Match) -> bool:
        """The reduced dims are known to be of size 1, and the dtype stays."""
        node, type_ = match.root, match["x"].type
        dims = node.attributes.get("dim")
        if not dims or node.results[0].dtype is not match["x"].dtype:
            return False
        return all(isinstance(d, int) and type_.shape[d] == 1 for d in dims)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The operand itself, reshaped."""
        result: Value = match.root.results[0]
        if types_known_equal(result.type, match["x"].type):
            return match["x"]
        assert isinstance(result.type, TensorType)
        return rewriter.create("aten.reshape", match["x"], result.type.shape).result


def _window_of_one(node: Node) -> bool:
    stride = node.attr("stride")
    return _all(node.attr("kernel_size"), 1) and (not stride or _all(stride, 1)) and _all(node.attr("padding"), 0)


def _image_of_one(node: Node, image: Value) -> bool:
    assert isinstance(image.type, TensorType)
    spatial = int(node.op.base.removesuffix("d")[-1])
    return _all(image.type.shape[-spatial:], 1)


def _all(values: tuple[object, ...], number: int) -> bool:
    return all(isinstance(v, int) and v == number for v in values)


IDEMPOTENT = tuple(
    Algebra(f"{name.replace('_', '-')}-twice", (op := getattr(aten, name))(op(x)), op(x), BITWISE)
    for name in ("abs", "floor", "ceil", "trunc", "sign")
)

_ROUNDINGS = ("floor", "ceil", "trunc", "round")
ROUNDINGS = tuple(
    Algebra(f"{outer}-of-{inner}", getattr(aten, outer)(getattr(aten, inner)(x)), getattr(aten, inner)(x), BITWISE)
    for outer in _ROUNDINGS
    for inner in _ROUNDINGS
    if outer != inner or outer == "round"
)

RULES: tuple[Rule, ...] = (
    Copies(),
    Detach(),
    DropoutInEvaluation(),
    NoopView(),
    NoopPad(),
    NoopRoll(),
    MaxPoolOfOne(),
    AveragePoolOfOne(),
    AdaptivePoolToSameSize(),
    ReduceUnitDim(),
    *IDEMPOTENT,
    *ROUNDINGS,
)
