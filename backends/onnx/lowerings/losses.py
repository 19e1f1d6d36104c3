"""Losses, which models return when they are called with labels."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import equals
from graphopt.backends.onnx.lowerings.extrema import clip
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Lowering, lowers, lowers_each
from graphopt.backends.onnx.shaping import normal_axes, reshape, squeeze, unsqueeze
from graphopt.ir import DType

NONE, MEAN, SUM = 0, 1, 2


def reduced(e: Emitter, loss: Tensor, reduction: int) -> Tensor:
    """Each element's loss, their mean, or their sum."""
    if reduction == NONE or not loss.dims:
        return loss
    axes = normal_axes(None, loss.rank)
    return e.op("ReduceMean" if reduction == MEAN else "ReduceSum", loss, axes, keepdims=0, shape=())


def _error(e: Emitter, a: Call) -> Tensor:
    return e.op("Sub", *(e.cast(t, a.out.dtype) for t in (a.self, a.target)))


@lowers("aten.mse_loss")
def _lower_mse(e: Emitter, a: Call) -> Tensor:
    error = _error(e, a)
    return reduced(e, e.op("Mul", error, error), a.reduction)


@lowers("aten.l1_loss")
def _lower_l1(e: Emitter, a: Call) -> Tensor:
    return reduced(e, e.op("Abs", _error(e, a)), a.reduction)


def _rounded(name: str) -> Lowering:
    """Quadratic near zero, then linear: `x²/2 / beta` and `|x| - beta/2`; Huber's loss is delta times that."""

    def lower(e: Emitter, a: Call) -> Tensor:
        beta = float(a.beta if name == "smooth" else a.delta)
        size = e.op("Abs", _error(e, a))
        linear = e.op("Sub", size, beta / 2)
        if beta:
            near = e.op("Div", e.op("Mul", e.op("Mul", size, size), 0.5), beta)
            linear = e.op("Where", e.op("Less", size, beta, dtype=DType.BOOL), near, linear)
        loss = linear if name == "smooth" else e.op("Mul", linear, beta)
        return reduced(e, loss, a.reduction)

    return lower


lowers_each({"aten.smooth_l1_loss": "smooth", "aten.huber_loss": "huber"}, _rounded)


@lowers("aten.binary_cross_entropy")
def _lower_bce(e: Emitter, a: Call) -> Tensor:
    """`-(y log p + (1 - y) log(1 - p))`, logarithms held above -100 as in PyTorch."""
    one = e.scalar(1.0, a.self.dtype)
    log_p = clip(e, e.op("Log", a.self), -100, None)
    log_q = clip(e, e.op("Log", e.op("Sub", one, a.self)), -100, None)
    likely = e.op("Add", e.op("Mul", a.target, log_p), e.op("Mul", e.op("Sub", one, a.target), log_q))
    loss = e.op("Neg", likely)
    return reduced(e, loss if a.weight is None else e.op("Mul", loss, a.weight), a.reduction)


@lowers("aten.binary_cross_entropy_with_logits")
def _lower_bce_with_logits(e: Emitter, a: Call) -> Tensor:
    """`(1 - y) x + (1 + (w - 1) y) softplus(-x)` with the weight w of positives."""
    one = e.scalar(1.0, a.self.dtype)
    tail = e.op("Softplus", e.op("Neg", a.self))
    if a.pos_weight is not None:
        more = e.op("Mul", e.op("Sub", a.pos_weight, one), a.target)
        tail = e.op("Mul", e.op("Add", more, one), tail)
    loss = e.op("Add", e.op("Mul", e.op("Sub", one, a.target), a.self), tail)
    return reduced(e, loss if a.weight is None else e.op("Mul", loss, a.weight), a.reduction)


@lowers("aten.kl_div")
def _lower_kl_div(e: Emitter, a: Call) -> Tensor:
    """`y (log y - x)`, zero where y is; with logarithms as targets `exp(t) (t - x)`."""
    if a.log_target:
        return reduced(e, e.op("Mul", e.op("Exp", a.target), e.op("Sub", a.target, a.self)), a.reduction)
    entropy = e.op("Mul", a.target, e.op("Log", a.target))
    entropy = e.op("Where", equals(e, a.target, 0), e.scalar(0.0, a.self.dtype), entropy)
    return reduced(e, e.op("Sub", entropy, e.op("Mul", a.target, a.self)), a.reduction)


@lowers("aten.nll_loss", "aten.nll_loss2d", "aten.nll_loss_nd")
def _lower_nll(e: Emitter, a: Call) -> Tensor:
    return _negative_log_likelihood(e, a, a.self)[0]


@lowers("aten.nll_loss_forward", "aten.nll_loss2d_forward")
def _lower_nll_forward(e: Emitter, a: Call) -> Sequence[Tensor]:
    """Also returns the sum of the weights, which is 0 where nothing is averaged or summed."""
    loss, weights = _negative_log_likelihood(e, a, a.self)
    return loss, e.scalar(0.0, loss.dtype) if a.reduction == NONE else reduced(e, weights, SUM)


@lowers("aten.cross_entropy_loss")
def _lower_cross_entropy(e: Emitter, a: Call) -> Tensor:
    """Of classes, or of probabilities. Label smoothing takes a share of the weight and spreads it evenly."""
    axis = 0 if a.self.rank == 1 else 1
    scores = e.op("LogSoftmax", a.self, axis=axis, shape=a.self.dims)
    if a.target.dtype.is_floating:
        return _soft_cross_entropy(e, a, scores, axis)
    loss, weight = _negative_log_likelihood(e, a, scores)
    if not a.label_smoothing:
        return loss
    even = _even_share(e, a, scores, axis)
    ignored = e.op("Equal", a.target, e.scalar(a.ignore_index, a.target.dtype), dtype=DType.BOOL)
    even = reduced(e, e.op("Where", ignored, e.scalar(0.0, even.dtype), even), SUM if a.reduction else NONE)
    if a.reduction == MEAN:
        even = e.op("Div", even, reduced(e, weight, SUM))
    share = a.label_smoothing
    return e.op("Add", e.op("Mul", loss, 1.0 - share), e.op("Mul", even, share))


def _weighted(e: Emitter, a: Call, scores: Tensor, axis: int) -> Tensor:
    """The negative scores of all classes, each times the weight of its class."""
    negative = e.op("Neg", scores)
    if a.weight is None:
        return negative
    return e.op("Mul", negative, reshape(e, a.weight, (scores.dims[axis], *(1,) * (scores.rank - axis - 1))))


def _even_share(e: Emitter, a: Call, scores: Tensor, axis: int) -> Tensor:
    """The mean over the classes."""
    shape = [d for i, d in enumerate(scores.dims) if i != axis]
    return e.op("ReduceMean", _weighted(e, a, scores, axis), [axis], keepdims=0, shape=shape)


def _soft_cross_entropy(e: Emitter, a: Call, scores: Tensor, axis: int) -> Tensor:
    target, share = a.target, a.label_smoothing
    if share:
        classes = e.scalar(scores.dims[axis], target.dtype)
        even = e.op("Div", e.scalar(float(share), target.dtype), classes)
        target = e.op("Add", e.op("Mul", target, 1.0 - share), even)
    shape = [d for i, d in enumerate(scores.dims) if i != axis]
    weighted = e.op("Mul", _weighted(e, a, scores, axis), target)
    return reduced(e, e.op("ReduceSum", weighted, [axis], keepdims=0, shape=shape), a.reduction)


def _negative_log_likelihood(e: Emitter, a: Call, scores: Tensor) -> tuple[Tensor, Tensor]:
    """`-w[t] x[t]` of the target class t, and the weights `w[t]`; the mean is weighted. An ignored class weighs 0."""
    axis = 0 if scores.rank == 1 else 1
    ignored = e.op("Equal", a.target, e.scalar(a.ignore_index, a.target.dtype), dtype=DType.BOOL)
    target = e.op("Where", ignored, e.scalar(0, a.target.dtype), a.target)
    picked = e.op("GatherElements", scores, unsqueeze(e, target, [axis]), axis=axis)
    picked.shape = (*target.dims[:axis], 1, *target.dims[axis:])
    picked = squeeze(e, picked, [axis])
    one = e.scalar(1.0, scores.dtype)
    weight = one if a.weight is None else e.op("Gather", a.weight, target, axis=0, shape=target.dims)
    weight = e.op("Where", ignored, e.scalar(0.0, scores.dtype), weight)
    loss = e.op("Neg", e.op("Mul", weight, picked))
    if a.reduction != MEAN:
        return reduced(e, loss, a.reduction), weight
    return e.op("Div", reduced(e, loss, SUM), reduced(e, weight, SUM)), weight
