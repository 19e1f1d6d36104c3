"""Activation functions."""

from __future__ import annotations

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.extrema import clip
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import normal_axis, reshape
from graphopt.ir import DType


@lowers("aten.relu")
def _lower_relu(e: Emitter, a: Call) -> Tensor:
    return e.op("Relu", a.self) if a.self.dtype.is_floating else e.op("Max", a.self, 0)


@lowers("aten.relu6")
def _lower_relu6(e: Emitter, a: Call) -> Tensor:
    return clip(e, a.self, 0, 6)


@lowers("aten.hardtanh")
def _lower_hardtanh(e: Emitter, a: Call) -> Tensor:
    return clip(e, a.self, a.min_val, a.max_val)


@lowers("aten.gelu")
def _lower_gelu(e: Emitter, a: Call) -> Tensor:
    """`x/2 * (1 + erf(x/sqrt 2))`, or the tanh form."""
    x = a.self
    if e.opset >= 20 and not (x.dtype is DType.F64 and a.approximate == "tanh"):  # whose factors would be in f32
        return e.op("Gelu", x, approximate=None if a.approximate == "none" else a.approximate)
    if a.approximate == "tanh":
        cubic = e.op("Mul", e.op("Pow", x, 3.0), 0.044715)
        inner = e.op("Tanh", e.op("Mul", e.op("Add", x, cubic), 0.7978845608028654))
    else:
        inner = e.op("Erf", e.op("Div", x, 1.4142135623730951))
    return e.op("Mul", e.op("Mul", x, e.op("Add", inner, 1.0)), 0.5)


@lowers("aten.silu")
def _lower_silu(e: Emitter, a: Call) -> Tensor:
    return e.op("Mul", a.self, e.op("Sigmoid", a.self))


@lowers("aten.hardsigmoid")
def _lower_hardsigmoid(e: Emitter, a: Call) -> Tensor:
    return e.op("HardSigmoid", a.self, alpha=1.0 / 6.0, beta=0.5)


@lowers("aten.hardswish")
def _lower_hardswish(e: Emitter, a: Call) -> Tensor:
    if a.self.dtype is DType.F32:
        return e.op("HardSwish", a.self)
    return e.op("Mul", a.self, e.op("HardSigmoid", a.self, alpha=1.0 / 6.0, beta=0.5))


@lowers("aten.mish")
def _lower_mish(e: Emitter, a: Call) -> Tensor:
    return e.op("Mul", a.self, e.op("Tanh", e.op("Softplus", a.self)))


@lowers("aten.softplus")
def _lower_softplus(e: Emitter, a: Call) -> Tensor:
    """`log(1 + exp(beta*x))/beta`; beyond the threshold x itself, which in f32 it equals from 20 on anyway."""
    x, scaled = a.self, a.self
    if a.beta != 1:
        scaled = e.op("Mul", x, float(a.beta))
    y = e.op("Softplus", scaled)
    if a.beta != 1:
        y = e.op("Div", y, float(a.beta))
    if a.threshold >= 20 and x.dtype is not DType.F64:
        return y
    return e.op("Where", e.op("Greater", scaled, float(a.threshold), dtype=DType.BOOL), x, y)


@lowers("aten.log_sigmoid")
def _lower_log_sigmoid(e: Emitter, a: Call) -> Tensor:
    return e.op("Neg", e.op("Softplus", e.op("Neg", a.self)))


@lowers("aten.elu")
def _lower_elu(e: Emitter, a: Call) -> Tensor:
    x = a.self
    if a.input_scale == 1:
        y = e.op("Elu", x, alpha=float(a.alpha))
        return y if a.scale == 1 else e.op("Mul", y, float(a.scale))
    negative = e.op("Elu", e.op("Mul", x, float(a.input_scale)), alpha=float(a.alpha))
    y = e.op("Where", e.op("Greater", x, 0.0, dtype=DType.BOOL), x, negative)
    return e.op("Mul", y, float(a.scale))


@lowers("aten.selu")
def _lower_selu(e: Emitter, a: Call) -> Tensor:
    return e.op("Selu", a.self)


@lowers("aten.celu")
def _lower_celu(e: Emitter, a: Call) -> Tensor:
    if a.self.dtype is DType.F32:
        return e.op("Celu", a.self, alpha=float(a.alpha))
    # Celu is for single precision alone: celu(x) = α·elu(x/α).
    alpha = float(a.alpha)
    return e.op("Mul", e.op("Elu", e.op("Div", a.self, alpha), alpha=1.0), alpha)


@lowers("aten.leaky_relu")
def _lower_leaky_relu(e: Emitter, a: Call) -> Tensor:
    return e.op("LeakyRelu", a.self, alpha=float(a.negative_slope))


@lowers("aten.rrelu")
def _lower_rrelu(e: Emitter, a: Call) -> Tensor:
    return e.op("LeakyRelu", a.self, alpha=(float(a.lower) + float(a.upper)) / 2)


@lowers("aten.prelu", "aten._prelu_kernel")
def _lower_prelu(e: Emitter, a: Call) -> Tensor:
    """One slope a channel: the weight is brought to `[C, 1, …]` so that it broadcasts over dim 1."""
    weight = a.weight
    if weight.rank == 1 and a.self.rank != 1:
        shape = (weight.dims[0], *(1,) * max(a.self.rank - 2, 0))
        if weight.data is None:
            weight = reshape(e, weight, shape)
        elif len(shape) > 1:
            weight = e.derived(weight, f"slope{len(shape)}", lambda data: data.reshape(shape))
    return e.op("PRelu", a.self, weight)


@lowers("aten.hardshrink")
def _lower_hardshrink(e: Emitter, a: Call) -> Tensor:
    small = e.op("LessOrEqual", e.op("Abs", a.self), float(a.lambd), dtype=DType.BOOL)
    return e.op("Where", small, e.scalar(0.0, a.self.dtype), a.self)


@lowers("aten.softshrink")
def _lower_softshrink(e: Emitter, a: Call) -> Tensor:
    """Towards zero by lambda: `x - clip(x, -lambda, lambda)`."""
    return e.op("Sub", a.self, clip(e, a.self, -a.lambd, a.lambd))


@lowers("aten.threshold")
def _lower_threshold(e: Emitter, a: Call) -> Tensor:
    below = e.op("LessOrEqual", a.self, e.scalar(a.threshold, a.self.dtype), dtype=DType.BOOL)
    return e.op("Where", below, e.scalar(a.value, a.self.dtype), a.self)


@lowers("aten.glu")
def _lower_glu(e: Emitter, a: Call) -> Tensor:
    axis = normal_axis(a.dim, a.self.rank)
    half, gate = e.ops("Split", a.self, dtypes=(None, None), shapes=(a.out.shape,) * 2, axis=axis, num_outputs=2)
    return e.op("Mul", half, e.op("Sigmoid", gate))
