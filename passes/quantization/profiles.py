"""What a target does with quantized operators, read from its capability rows (`graphopt.targets.quantization`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from graphopt.errors import TargetError, UnknownNameError, unknown_name
from graphopt.ir import DType
from graphopt.ops.quantization import Format, find_format
from graphopt.passmanager import PassContext
from graphopt.targets import Capability, get_target
from graphopt.targets.quantization import PAIR, QUANTIZED, quantized_rows


@dataclass(frozen=True)
class Fusion:
    """How a target runs an operator on integers.

    inputs: parameters that are activations. weight: the parameter that is a stored weight, with its output channels
    along `channels`. bias: the parameter that is a bias. per_channel: whether each channel may have its scale.
    result: "integer": must be quantized; "any": may stay a float; "same": has the scale of the inputs.
    tails: operators that go into this one, besides those that go into any quantization. absorbs: sums that do, so that
    what it gives them stays a float.
    """

    inputs: tuple[str, ...]
    weight: str = ""
    channels: int = 0
    bias: str = ""
    per_channel: bool = True
    result: str = "integer"
    tails: frozenset[str] = frozenset()
    absorbs: frozenset[str] = frozenset()

    def axis(self, rank: int, per_channel: bool) -> int | None:
        """Along which axis a weight has scales; None if it has one."""
        return self.channels % rank if per_channel and self.per_channel else None


@dataclass(frozen=True)
class Profile:
    """What a target wants.

    fusions: by operator. tails: operators that go into the quantization behind them.
    activations: the format of activations; symmetric: without zero points. integer_bias: whether biases are stored as
    32-bit integers of scale s_x·s_w. narrowest: the fewest bits that kernels read weights in; narrower ones are stored
    in so many. channelwise: whether depthwise convolutions read a scale for each channel.
    split_linear: whether a linear layer on more than two dims is to be a product with a transposed weight, since that
    is what is written.
    """

    fusions: dict[str, Fusion]
    tails: frozenset[str] = frozenset()
    activations: str = "uint8"
    symmetric: bool = False
    integer_bias: bool = True
    narrowest: int = 8
    channelwise: bool = False
    split_linear: bool = True

    def stored(self, format_: Format) -> Format:
        """The format that weights of a signed format are stored in."""
        return find_format(f"int{self.narrowest}") if format_.bits < self.narrowest else format_

    def tails_of(self, operator: str) -> frozenset[str]:
        """What may stand between an operator and the quantization of its result."""
        fusion = self.fusions.get(operator)
        return self.tails if fusion is None else self.tails | fusion.tails


def _operands() -> Iterator[tuple[str, Fusion]]:
    for n in (1, 2, 3):
        for kind in ("", ".padding"):
            yield f"conv{n}d{kind}", Fusion(("input",), "weight", 0, "bias")
    yield "linear", Fusion(("input",), "weight", 0, "bias")
    yield "addmm", Fusion(("mat1",), "mat2", 1, "self")
    yield "matmul", Fusion(("self",), "other", -1)
    yield "mm", Fusion(("self",), "mat2", 1)
    yield "bmm", Fusion(("self", "mat2"))
    for name in ("add", "sub", "mul", "div"):
        yield f"{name}.Tensor", Fusion(("self", "other"))
    yield "cat", Fusion(("tensors",))
    unary = (
        "max_pool2d reshape view flatten.using_ints permute transpose.int t squeeze squeeze.dim unsqueeze slice.Tensor "
        "select.int expand contiguous avg_pool2d adaptive_avg_pool2d leaky_relu relu relu6 hardtanh clamp sigmoid tanh "
        "hardswish hardsigmoid silu mean.dim max_pool1d avg_pool1d"
    )
    for name in unary.split():
        yield name, Fusion(("self",))


OPERANDS: dict[str, Fusion] = {f"aten.{name}": fusion for name, fusion in _operands()}
"""Which operands are activations, weights and biases, by operator; what a target does with them is for its rows."""


def profile_of(rows: Sequence[Capability], split_linear: bool = False) -> Profile:
    """Return what capability rows say of quantization.

    Raises:
        TargetError: a row with a rule of scales whose operator is none that can be quantized, or integers of more
            than 16 bits for activations.

    >>> profile_of([Capability("aten.conv2d", scales="integer", granularity="tensor", symmetric=True)]).symmetric
    True
    """
    layers = [row for row in rows if row.scales and row.operator != PAIR and _on_integers(row)]
    fusions: dict[str, Fusion] = {}
    for row in layers:
        names = [name for name in OPERANDS if fnmatchcase(name, row.operator)]
        if not names:
            raise TargetError(
                f"the capability {row.operator!r} has a rule of scales, and quantization knows no such operator; "
                f"there are {', '.join(OPERANDS)}"
            )
        for name in names:
            fusions.setdefault(name, _fusion(OPERANDS[name], row))
    pair = next((row for row in rows if row.operator == PAIR), Capability(PAIR))
    symmetric = pair.symmetric or any(row.symmetric for row in layers)
    formats = [dtype for dtype in pair.dtypes if _is_narrow(dtype)]
    if pair.dtypes and not formats:
        raise TargetError(f"the capability {PAIR!r} names no integers of at most 16 bits, for activations")
    signed = [_bits(dtype) for dtype in formats if dtype.startswith("i")]
    return Profile(
        fusions,
        tails=frozenset(pair.fusion),
        activations=_format(formats[0]) if formats else "int8" if symmetric else "uint8",
        symmetric=symmetric,
        integer_bias="i32" in pair.dtypes,
        narrowest=min([8, *signed]),
        channelwise=pair.granularity == "channel",
        split_linear=split_linear,
    )


def _fusion(operands: Fusion, row: Capability) -> Fusion:
    sums = frozenset(name for name in row.fusion if name in OPERANDS and len(OPERANDS[name].inputs) == 2)
    return replace(
        operands,
        per_channel=row.granularity != "tensor",
        result=row.scales,
        tails=frozenset(row.fusion) - sums,
        absorbs=sums,
    )


def _on_integers(row: Capability) -> bool:
    """False if a row names dtypes, and no integer among them."""
    return not row.dtypes or any(_is_narrow(dtype) for dtype in row.dtypes)


def _is_narrow(dtype: str) -> bool:
    found = DType(dtype)
    return found.is_integer and found.bits <= 16


def _bits(dtype: str) -> int:
    return DType(dtype).bits


def _format(dtype: str) -> str:
    return f"{'uint' if dtype.startswith('u') else 'int'}{_bits(dtype)}"


PROFILES: dict[str, Profile] = {
    name: profile_of(rows, split_linear=name == "onnxruntime") for name, rows in QUANTIZED.items()
}
"""Of engines, by name."""

_SAME = {
    "onnx": "onnxruntime",
    "cpu": "onnxruntime",
    "fx": "onnxruntime",
    "eager": "onnxruntime",
    "inductor": "onnxruntime",
}


def get_profile(target: str) -> Profile:
    """Return what a target wants; what runs on PyTorch is quantized as for ONNX Runtime.

    target: an engine that is known, or an installed target or a `.toml` file with capability rows.

    Raises:
        UnknownNameError: nothing is known of the target.
        TargetError: a file that holds no target, or rows that no quantization fits.
    """
    name = _SAME.get(target, target)
    if name in PROFILES:
        return PROFILES[name]
    try:
        found = get_target(target)
    except UnknownNameError:
        found = None
    rows = () if found is None else quantized_rows(found.capabilities)
    if found is None or not rows:
        raise unknown_name("quantization profile", target, (*PROFILES, *_SAME))
    return profile_of(rows, split_linear="onnxruntime" in found.engines)


def profile_for(asked: str, context: PassContext) -> Profile:
    """Return the profile that is asked for by name, or else what the target's rows say, or else its engine's.

    Raises:
        UnknownNameError: nothing is known of it.
        TargetError: rows that no quantization fits.
    """
    rows = quantized_rows(context.capabilities)
    engine = "" if context.engine is None else context.engine.name
    if rows and not asked:
        return profile_of(rows, split_linear=engine == "onnxruntime")
    try:
        return get_profile(asked or context.target)
    except UnknownNameError:
        if asked or not engine:
            raise
        return get_profile(engine)
