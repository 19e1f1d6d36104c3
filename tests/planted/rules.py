"""Wrong rules, each a mistake that a person could make. Every one of them promises what it does not keep."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.passmanager.decorators import rewrite
from graphopt.rewrite import Contract, aten, var

x, y, w, b, c, d, k, q, v = map(var, ("x", "y", "w", "b", "c", "d", "k", "q", "v"))
shape, dims, eps, stride, pad, dilation, groups = map(
    var, ("shape", "dims", "eps", "stride", "pad", "dilation", "groups")
)
gamma, beta, mean, variance = map(var, ("gamma", "beta", "mean", "variance"))


def tensor_of(value: Any) -> torch.Tensor:
    """The stored tensor of a constant."""
    return value.constant.tensor.detach()


@rewrite(aten.linear(x, w, b))
def drop_bias(x, w, b):
    """Written for layers without a bias."""
    return None if b is None else aten.linear(x, w)


@rewrite(aten.linear(x, w, b))
def square_linear(x, w, b):
    """x·wᵀ + b written out, the transposition forgotten: types notice unless the weight is square."""
    if b is None or w.type.shape[0] != w.type.shape[1]:
        return None
    return aten.add.Tensor(aten.matmul(x, w), b)


@rewrite(aten.softmax.int(x, -1, ...))
def softmax_dim(x):
    """The dim counted from the wrong end."""
    return aten.softmax.int(x, -2)


@rewrite(aten.amax(x, (-1,), False))
def swapped_axis(x):
    """The largest of each column in place of each row."""
    return aten.amax(x, (-2,))


@rewrite(aten.conv2d(aten.pad(x, pad, "constant", ...), w, b, stride, (0, 0), dilation, groups))
def off_by_one_pad(x, pad, w, b, stride, dilation, groups):
    """Padding folded into the convolution, as if both sides had the same."""
    left, right, top, bottom = pad
    return aten.conv2d(x, w, b, stride, (max(top, bottom), max(left, right)), dilation, groups)


@rewrite(aten.batch_norm(x, gamma, beta, mean, variance, ..., eps=eps))
def batch_norm_eps(x, gamma, beta, mean, variance, eps, rewriter):
    """Batch norm as scale and shift, with the epsilon of another framework."""
    if any(p is None or p.constant is None for p in (gamma, beta, mean, variance)):
        return "a parameter is not stored"
    scale = tensor_of(gamma) / torch.sqrt(tensor_of(variance) + 1e-3)
    shift = tensor_of(beta) - tensor_of(mean) * scale
    view = [-1] + [1] * (len(x.type.shape) - 2)
    scaled = aten.mul.Tensor(x, rewriter.constant(scale.reshape(view), "scale"))
    return aten.add.Tensor(scaled, rewriter.constant(shift.reshape(view), "shift"))


@rewrite(aten.batch_norm(x, gamma, beta, mean, variance, ..., eps=eps))
def wrong_broadcast(x, gamma, beta, mean, variance, eps, rewriter):
    """A scale for each channel, laid along the last dim wherever that fits."""
    if any(p is None or p.constant is None for p in (gamma, beta, mean, variance)):
        return "a parameter is not stored"
    scale = tensor_of(gamma).double() / torch.sqrt(tensor_of(variance).double() + eps)
    shift = tensor_of(beta).double() - tensor_of(mean).double() * scale
    fits = x.type.shape[-1] == scale.numel()
    view = [-1] if fits else [-1] + [1] * (len(x.type.shape) - 2)
    scaled = aten.mul.Tensor(x, rewriter.constant(scale.reshape(view).float(), "scale"))
    return aten.add.Tensor(scaled, rewriter.constant(shift.reshape(view).float(), "shift"))


@rewrite(aten.mul.Scalar(x, 0.0), contract=Contract.VALUE_EXACT)
def zero_times(x):
    """x · 0 = 0, which NaN and infinity don't know."""
    return aten.zeros_like(x)


@rewrite(aten.floor_divide(x, y), aten.div.Tensor_mode(x, y, "floor"), aten.div.Scalar_mode(x, y, "floor"))
def integer_division(x, y):
    """Rounded towards zero, as in C."""
    if isinstance(y, int):
        return aten.div.Scalar_mode(x, y, rounding_mode="trunc")
    return aten.div.Tensor_mode(x, y, rounding_mode="trunc")


@rewrite(aten.batch_norm(aten.conv2d(x, w, None, stride, pad, dilation, groups), gamma, beta, mean, variance, ...))
def weights_in_place(x, w, stride, pad, dilation, groups, gamma, beta, mean, variance, rewriter):
    """A batch norm folded into the model's own tensor."""
    scale = tensor_of(gamma) / torch.sqrt(tensor_of(variance) + 1e-5)
    w.constant.tensor.detach().mul_(scale.reshape(-1, 1, 1, 1))
    shift = rewriter.constant(tensor_of(beta) - tensor_of(mean) * scale, "shift")
    return aten.conv2d(x, w, shift, stride, pad, dilation, groups)


@rewrite(aten.add.Tensor(x, y), contract=Contract.BITWISE)
def aliased_output(x, y):
    """A residual added in place: the output is the input."""
    return aten.add_.Tensor(x, y)


@rewrite(aten.conv_transpose2d.input(x, w, b, (2, 2), (0, 0), (0, 0), 1, (1, 1)))
def transposed_stride(x, w, b, rewriter):
    """A transposed convolution whose stride is its kernel: a convolution and a shuffle, rows and columns swapped."""
    inputs, outputs, height, width = tensor_of(w).shape
    if (height, width) != (2, 2) or b is None:
        return "the stride is not the kernel"
    flat = tensor_of(w).permute(1, 3, 2, 0).reshape(outputs * 4, inputs, 1, 1).contiguous()
    bias = tensor_of(b).repeat_interleave(4)
    convolved = aten.conv2d(x, rewriter.constant(flat, "flat"), rewriter.constant(bias, "bias"))
    return aten.pixel_shuffle(convolved, 2)


@rewrite(aten.transpose.int(x, 1, 2))
def transpose_order(x):
    """A transposition as a permutation, in the order of another layout."""
    rank = len(x.type.shape)
    order = (0, 2, 1, 4, 3) if rank == 5 else (0, 2, 1, 3)
    return aten.permute(x, order) if rank in (4, 5) else None


@rewrite(aten.gt.Tensor(x, aten.mean.dim(y, dims, True, ...)))
def missing_keepdim(x, y, dims):
    """A comparison with the mean of each row that has become one with that of each column."""
    return aten.gt.Tensor(x, aten.mean.dim(y, dims))


@rewrite(aten.gelu(x, "none"))
def gelu_tanh(x):
    """The approximation for the function."""
    return aten.gelu(x, approximate="tanh")


@rewrite(aten.relu(x))
def relu6_for_relu(x):
    """The activation of the mobile variant."""
    return aten.relu6(x)


@rewrite(aten.conv2d(aten.relu(x).named("act"), w, b, stride, pad, dilation, groups))
def dropped_second_use(x, w, b, stride, pad, dilation, groups, match, rewriter):
    """An activation moved into the convolution after it, and taken from everyone else who used it."""
    act = match.node("act")
    if act.result.num_uses < 2:
        return "the activation has no other use"
    own = rewriter.create("aten.clamp", x, 0.0)
    made = rewriter.create("aten.conv2d", own.result, w, b, stride, pad, dilation, groups)
    rewriter.replace_value(act.result, x)
    return made.result


@rewrite(aten.select.int(c, 0, d))
def buffer_fold(c, d, rewriter):
    """Rows of a stored table, cached by the table alone."""
    if c.constant is None:
        return None
    return rewriter.constant(tensor_of(c)[0].clone(), f"{c.name}_row")


@rewrite(aten.scaled_dot_product_attention(q, k, v, None, 0.0, False, ...))
def attention_scale(q, k, v):
    """Attention written out, its logits divided by the width and not by its root."""
    width = q.type.shape[-1]
    logits = aten.mul.Scalar(aten.matmul(q, aten.transpose.int(k, -2, -1)), 1.0 / width)
    return aten.matmul(aten.softmax.int(logits, -1), v)


@rewrite(aten.masked_fill.Scalar(x, y, c))
def clamped_mask(x, y, c):
    """A finite number for minus infinity, and not a large one."""
    return aten.masked_fill.Scalar(x, y, -8.0) if c == -math.inf else None


@rewrite(aten.layer_norm(x, shape, w, b, eps, ...))
def biased_variance(x, shape, w, b, eps):
    """Layer norm written out, with the variance of a sample."""
    centred = aten.sub.Tensor(x, aten.mean.dim(x, (-1,), True))
    spread = aten.add.Scalar(aten.var.correction(x, (-1,), correction=1, keepdim=True), eps)
    normal = aten.mul.Tensor(centred, aten.rsqrt(spread))
    return aten.add.Tensor(aten.mul.Tensor(normal, w), b)


@rewrite(aten.conv1d(x, w, b, stride, pad, dilation, groups))
def lost_dilation(x, w, b, stride, pad, dilation, groups):
    """A padding that keeps the length, of a kernel that is not spread."""
    if pad != dilation or pad == (1,):
        return None
    return aten.conv1d(x, w, b, stride, (1,), (1,), groups)


@rewrite(aten.avg_pool2d(x, k, stride, pad, c, False, ...))
def padded_average(x, k, stride, pad, c):
    """The zeros of the padding counted in."""
    return aten.avg_pool2d(x, k, stride, pad, c, True)


@rewrite(aten.select.int(x, 1, 0))
def wrong_token(x):
    """The token after the first."""
    return aten.select.int(x, 1, 1)


@rewrite(aten._to_copy(aten.mul.Scalar(aten._to_copy(x, ...), c), ...), contract=Contract.BITWISE)
def dtype_promotion(x, c, match):
    """Casts around a product left out: the product is no longer rounded to half precision."""
    return aten.mul.Scalar(x, c) if match.root.result.type == x.type else None


@rewrite(aten.mean.dim(x, (-1,), False, ...))
def baked_length(x):
    """The mean as a sum over a length that was a number when the rule was written."""
    return aten.mul.Scalar(aten.sum.dim_IntList(x, (-1,)), 1.0 / 36)
