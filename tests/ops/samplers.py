"""Samplers for every operator that has an inference rule. Importing this module fills `calls.SAMPLERS`."""

from __future__ import annotations

from graphopt.ir import DType, TensorType
from graphopt.ir.dims import product
from graphopt.ops.inference import overloads
from tests.ops.calls import ANY, FLOATS, Draw, Drawn, S, T, sampler

FEW = (DType.F32, DType.F32, DType.F64, DType.F16)


@sampler(
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh",
    "sigmoid reciprocal sinc erf erfc erfinv lgamma digamma i0 special_erfcx special_entr relu sign ceil floor trunc",
    "round frac deg2rad rad2deg neg positive square sgn conj_physical abs absolute bitwise_not logical_not isnan",
    "isinf isfinite signbit isposinf isneginf isreal alias detach clone lift_fresh_copy lift_fresh lift",
    "resolve_conj resolve_neg squeeze max min any all log_sigmoid hardsigmoid hardswish mish silu relu6 selu gelu",
    "celu elu hardshrink hardtanh leaky_relu softplus softshrink nan_to_num logit zeros_like ones_like",
    "empty_like rand_like randn_like contiguous",
)
def unary(d: Draw) -> Drawn:
    return [d.tensor()], {}


@sampler("round.decimals")
def round_decimals(d: Draw) -> Drawn:
    return [d.tensor()], {"decimals": 2}


@sampler("threshold")
def threshold(d: Draw) -> Drawn:
    return [d.tensor()], {"threshold": 0.5, "value": 1}


@sampler(
    overloads("add sub rsub mul remainder fmod div true_divide eq ne lt le gt ge", "Tensor"),
    overloads("bitwise_and bitwise_or bitwise_xor", "Tensor"),
    "maximum minimum max.other min.other fmax fmin pow.Tensor_Tensor atan2 copysign.Tensor hypot logaddexp",
    "xlogy.Tensor floor_divide logical_and logical_or logical_xor clamp_min.Tensor clamp_max.Tensor",
)
def binary(d: Draw) -> Drawn:
    shape = d.shape()
    a, b = d.dtype(), d.dtype()
    if d.flag():
        b = a
    return [TensorType(a, d.broadcastable(shape)), TensorType(b, d.broadcastable(shape))], {}


@sampler(
    overloads("add sub rsub mul remainder fmod div true_divide eq ne lt le gt ge floor_divide", "Scalar"),
    "copysign.Scalar xlogy.Scalar_Other",
)
def with_number(d: Draw) -> Drawn:
    return [d.tensor()], {"other": d.one((2, 0.5, True, -3, 1.0, S))}


@sampler(overloads("bitwise_and bitwise_or bitwise_xor", "Scalar"))
def bitwise_number(d: Draw) -> Drawn:
    return [d.tensor()], {"other": d.one((2, True, 1))}


@sampler(overloads("bitwise_and bitwise_or bitwise_xor", "Scalar_Tensor"))
def bitwise_from_number(d: Draw) -> Drawn:
    return [d.tensor()], {"self": d.one((2, True, 1))}


@sampler("remainder.Scalar_Tensor pow.Scalar xlogy.Scalar_Self")
def from_number(d: Draw) -> Drawn:
    return [d.tensor()], {"self": d.number()}


@sampler("pow.Tensor_Scalar")
def power(d: Draw) -> Drawn:
    return [d.tensor()], {"exponent": d.one((2, 0.5, True, 3.0))}


@sampler("div.Tensor_mode")
def division(d: Draw) -> Drawn:
    operands, _ = binary(d)
    return operands, {"rounding_mode": d.one(("floor", "trunc", None))}


@sampler("div.Scalar_mode")
def division_number(d: Draw) -> Drawn:
    return [d.tensor()], {"other": d.number(), "rounding_mode": d.one(("floor", "trunc", None))}


@sampler("where.self")
def where(d: Draw) -> Drawn:
    shape = d.shape()
    parts = [TensorType(t, d.broadcastable(shape)) for t in (DType.BOOL, d.dtype(), d.dtype())]
    return list(parts), {}


@sampler("where.ScalarOther")
def where_other(d: Draw) -> Drawn:
    shape = d.shape()
    return [TensorType(DType.BOOL, d.broadcastable(shape)), TensorType(d.dtype(), shape)], {"other": d.number()}


@sampler("where.ScalarSelf")
def where_self(d: Draw) -> Drawn:
    shape = d.shape()
    return [TensorType(DType.BOOL, shape), TensorType(d.dtype(), d.broadcastable(shape))], {"self": d.number()}


@sampler("where.Scalar")
def where_scalars(d: Draw) -> Drawn:
    return [d.tensor(dtypes=(DType.BOOL,))], {"self": d.number(), "other": d.number()}


@sampler("clamp clip")
def clamp(d: Draw) -> Drawn:
    return [d.tensor()], {"min": d.one((None, 0, -0.5)), "max": d.one((2, 1.5, None))}


@sampler("clamp_min clamp_max")
def clamp_min(d: Draw) -> Drawn:
    return [d.tensor()], {d.op.removeprefix("clamp_"): d.number()}


@sampler("clamp.Tensor clip.Tensor")
def clamp_tensors(d: Draw) -> Drawn:
    shape = d.shape()
    limits = [d.optional(TensorType(d.dtype(), d.broadcastable(shape))) for _ in range(2)]
    return [TensorType(d.dtype(), d.broadcastable(shape)), *limits], {}


@sampler("masked_fill.Scalar")
def masked_fill(d: Draw) -> Drawn:
    shape = d.shape()
    x, mask = TensorType(d.dtype(), shape), TensorType(DType.BOOL, d.broadcastable(shape))
    return [x, mask], {"value": d.number()}


@sampler("masked_fill.Tensor")
def masked_fill_tensor(d: Draw) -> Drawn:
    operands, _ = masked_fill(d)
    return [*operands, TensorType(d.dtype(), ())], {}


@sampler("lerp.Scalar")
def lerp(d: Draw) -> Drawn:
    shape, dtype = d.shape(), d.dtype(FLOATS)
    return [TensorType(dtype, d.broadcastable(shape)) for _ in range(2)], {"weight": 0.5}


@sampler("lerp.Tensor addcmul addcdiv")
def ternary(d: Draw) -> Drawn:
    shape, dtype = d.shape(), d.dtype(FLOATS)
    return [TensorType(dtype, d.broadcastable(shape)) for _ in range(3)], {}


@sampler("prelu")
def prelu(d: Draw) -> Drawn:
    dtype = d.dtype(FLOATS)
    x = TensorType(dtype, d.shape(2, 4))
    return [x, TensorType(dtype, d.one(((1,), (x.shape[1],), ())))], {}


# Shapes


@sampler("dropout alpha_dropout feature_dropout")
def dropout(d: Draw) -> Drawn:
    return [d.tensor()], {"p": d.one((0.5, 0.0, 1.5)), "train": d.flag()}


@sampler("reshape view _unsafe_view")
def reshape(d: Draw) -> Drawn:
    shape = list(d.shape())
    size = list(shape)
    if len(size) > 1 and d.flag():
        size[:2] = [product(size[:2])]
    if size and d.flag():
        size[d.integer(0, len(size) - 1)] = -1
    elif d.flag():
        size.insert(0, 1)
    key = "shape" if d.op == "reshape" else "size"
    return [TensorType(d.dtype(), tuple(shape))], {key: tuple(size)}


@sampler("permute")
def permute(d: Draw) -> Drawn:
    x = d.tensor()
    order = d.one((tuple(range(x.rank))[::-1], tuple(range(1, x.rank)) + (0,) * (x.rank > 0)))
    return [x], {"dims": tuple(a - x.rank if d.flag() else a for a in order)}


@sampler("transpose.int")
def transpose(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim0": d.axis(x.rank), "dim1": d.axis(x.rank)}


@sampler("swapaxes")
def swapaxes(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"axis0": d.axis(x.rank), "axis1": d.axis(x.rank)}


@sampler("swapdims")
def swapdims(d: Draw) -> Drawn:
    return transpose(d)


@sampler("t numpy_T tril triu")
def matrix(d: Draw) -> Drawn:
    return [d.tensor(0, 3)], {}


@sampler("movedim.int moveaxis.int")
def movedim(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"source": d.axis(x.rank), "destination": d.axis(x.rank)}


@sampler("movedim.intlist moveaxis.intlist")
def movedims(d: Draw) -> Drawn:
    x = d.tensor(2, 4)
    return [x], {"source": (0, -1), "destination": d.one(((1, 0), (-1, 0), (0, 1)))}


@sampler("squeeze.dim unbind.int")
def one_dim(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank)}


@sampler("unsqueeze")
def unsqueeze(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.integer(-x.rank - 1, x.rank)}


@sampler("squeeze.dims")
def squeeze_dims(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axes(x.rank)}


@sampler("expand broadcast_to")
def expand(d: Draw) -> Drawn:
    size = d.shape()
    x = TensorType(d.dtype(), d.broadcastable(size))
    offset = len(size) - x.rank
    return [x], {"size": tuple(-1 if i >= offset and x.shape[i - offset] == n else n for i, n in enumerate(size))}


@sampler("expand_as")
def expand_as(d: Draw) -> Drawn:
    size = d.shape()
    return [TensorType(d.dtype(), d.broadcastable(size)), TensorType(d.dtype(), size)], {}


@sampler("view_as reshape_as")
def view_as(d: Draw) -> Drawn:
    x = d.tensor()
    return [x, TensorType(d.dtype(), x.shape[::-1])], {}


@sampler("flatten.using_ints")
def flatten(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"start_dim": d.axis(x.rank), "end_dim": d.axis(x.rank)}


@sampler("unflatten.int")
def unflatten(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    dim = d.axis(x.rank)
    size = x.shape[dim]
    return [x], {"dim": dim, "sizes": d.one(((1, size), (-1, 1), (size, -1), (2, -1)))}


@sampler("flip")
def flip(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dims": d.axes(x.rank)}


@sampler("roll")
def roll(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    dims = d.axes(x.rank)
    return [x], {"shifts": (1,) * (len(dims) or 1), "dims": dims}


@sampler("pixel_shuffle")
def pixel_shuffle(d: Draw) -> Drawn:
    n, c, h, w = (d.dim() for _ in range(4))
    return [TensorType(DType.F32, (n, d.one((c, c * 4)), h, w))], {"upscale_factor": 2}


@sampler("pixel_unshuffle")
def pixel_unshuffle(d: Draw) -> Drawn:
    n, c, h, w = (d.dim() for _ in range(4))
    return [TensorType(DType.F32, (n, c, d.one((h, h * 2)), w * 2))], {"downscale_factor": 2}


@sampler("channel_shuffle")
def channel_shuffle(d: Draw) -> Drawn:
    return [TensorType(DType.F32, (d.dim(), d.one((4, T, 3)), d.dim(), d.dim()))], {"groups": 2}


# Parts


@sampler("slice.Tensor")
def slice_(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    ends = (None, 0, 1, 3, -1, -2, 100, 2**63 - 1, S)
    return [x], {"dim": d.axis(x.rank), "start": d.one(ends), "end": d.one(ends), "step": d.integer(1, 3)}


@sampler("select.int")
def select(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"dim": d.axis(x.rank), "index": d.integer(-4, 3)}


@sampler("narrow")
def narrow(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"dim": d.axis(x.rank), "start": d.integer(0, 2), "length": d.one((0, 1, 2, 3))}


@sampler("split.Tensor unsafe_split.Tensor")
def split(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"split_size": d.one((1, 2, 3, 8, S)), "dim": d.axis(x.rank)}


@sampler("chunk")
def chunk(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"chunks": d.integer(1, 4), "dim": d.axis(x.rank)}


@sampler("tensor_split.sections")
def tensor_split(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"sections": d.integer(1, 4), "dim": d.axis(x.rank)}


@sampler("split_with_sizes unsafe_split_with_sizes split.sizes")
def split_with_sizes(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    dim = d.axis(x.rank)
    first = d.one((1, 0, 2))
    key = "split_size" if d.op == "split.sizes" else "split_sizes"
    return [x], {key: (first, x.shape[dim] - first), "dim": dim}


@sampler("unfold")
def unfold(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"dimension": d.axis(x.rank), "size": d.integer(0, 3), "step": d.integer(1, 3)}


@sampler("diagonal")
def diagonal(d: Draw) -> Drawn:
    x = d.tensor(2, 3)
    return [x], {"offset": d.integer(-2, 2), "dim1": 0, "dim2": d.one((1, -1, -2))}


# Joining


@sampler("cat concat concatenate")
def cat(d: Draw) -> Drawn:
    shape = d.shape(1, 3)
    dim = d.axis(len(shape))
    place = dim % len(shape)
    dtype = d.dtype()
    parts: list[TensorType | None] = []
    for _ in range(d.integer(1, 3)):
        kind = d.dtype() if d.integer(0, 3) == 0 else dtype
        parts.append(TensorType(kind, (*shape[:place], d.dim(), *shape[place + 1 :])))
    if d.integer(0, 5) == 0:
        parts.insert(0, TensorType(dtype, (0,)))
    return parts, {"dim": dim}


@sampler("stack")
def stack(d: Draw) -> Drawn:
    x = d.tensor(0, 3)
    return [x] * d.integer(1, 3), {"dim": d.integer(-x.rank - 1, x.rank)}


@sampler("broadcast_tensors")
def broadcast_tensors(d: Draw) -> Drawn:
    shape = d.shape()
    return [TensorType(d.dtype(), d.broadcastable(shape)) for _ in range(d.integer(1, 3))], {}


@sampler("constant_pad_nd")
def constant_pad(d: Draw) -> Drawn:
    x = d.tensor(1, 4)
    return [x], {"pad": tuple(d.integer(-1, 2) for _ in range(2 * d.integer(1, x.rank)))}


@sampler("pad")
def pad(d: Draw) -> Drawn:
    mode = d.one(("constant", "reflect", "replicate", "circular"))
    x = d.tensor(2, 4, FEW)
    count = d.integer(1, 2)
    return [x], {"pad": tuple(d.integer(0, 2) for _ in range(2 * count)), "mode": mode}


@sampler("reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d")
def mirrored(d: Draw) -> Drawn:
    n = int(d.op[-2])
    return [d.tensor(n + 1, n + 2, FEW)], {"padding": tuple(d.integer(0, 2) for _ in range(2 * n))}


@sampler("repeat")
def repeat(d: Draw) -> Drawn:
    x = d.tensor(0, 3)
    return [x], {"repeats": tuple(d.one((1, 2, 0, S)) for _ in range(x.rank + d.integer(0, 1)))}


@sampler("tile")
def tile(d: Draw) -> Drawn:
    x = d.tensor(0, 3)
    return [x], {"dims": tuple(d.one((1, 2, 0, S)) for _ in range(d.integer(0, 4)))}


@sampler("repeat_interleave.self_int")
def repeat_interleave(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"repeats": d.one((2, 1, 3, S)), "dim": d.one((None, d.axis(x.rank)))}


# Reductions


@sampler("sum.dim_IntList nansum mean.dim")
def sum_dims(d: Draw) -> Drawn:
    x = d.tensor()
    dtype = d.one((None, None, DType.F32, DType.I64))
    return [x], {"dim": d.one((None, d.axes(x.rank))), "keepdim": d.flag(), "dtype": dtype}


@sampler("sum prod mean")
def sum_all(d: Draw) -> Drawn:
    return [d.tensor()], {"dtype": d.one((None, None, DType.F32, DType.F64))}


@sampler("prod.dim_int")
def prod_dim(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank), "keepdim": d.flag(), "dtype": d.one((None, DType.F32))}


@sampler("amax amin logsumexp any.dims all.dims var.dim std.dim var.correction std.correction linalg_vector_norm")
def reduce_dims(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axes(x.rank), "keepdim": d.flag()}


@sampler("var std")
def var_all(d: Draw) -> Drawn:
    return [d.tensor()], {"unbiased": d.flag()}


@sampler("max.dim min.dim any.dim all.dim")
def reduce_dim(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank), "keepdim": d.flag()}


@sampler("argmax argmin")
def argmax(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.one((None, d.axis(x.rank))), "keepdim": d.flag()}


@sampler("softmax.int log_softmax.int cumsum cumprod")
def softmax(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank), "dtype": d.one((None, None, DType.F32, DType.F64))}


@sampler("_softmax _log_softmax")
def core_softmax(d: Draw) -> Drawn:
    x = d.tensor(dtypes=FLOATS)
    return [x], {"dim": d.axis(x.rank), "half_to_float": False}


@sampler("_safe_softmax")
def safe_softmax(d: Draw) -> Drawn:
    x = d.tensor(dtypes=FLOATS)
    return [x], {"dim": d.axis(x.rank)}


@sampler("topk")
def topk(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"k": d.one((1, 2, 3)), "dim": d.axis(x.rank)}


@sampler("sort argsort")
def sort(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank), "descending": d.flag()}


@sampler("sort.stable")
def sort_stable(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"stable": d.flag(), "dim": d.axis(x.rank)}


@sampler("glu")
def glu(d: Draw) -> Drawn:
    x = d.tensor(1, 3, FLOATS)
    dim = d.axis(x.rank)
    place = dim % x.rank
    return [x.with_shape((*x.shape[:place], x.shape[place] * d.one((1, 2)), *x.shape[place + 1 :]))], {"dim": dim}


# Matrix products


@sampler("mm")
def mm(d: Draw) -> Drawn:
    n, k, m = d.dim(), d.dim(), d.dim()
    dtype = d.dtype()
    return [TensorType(dtype, (n, k)), TensorType(dtype, (k, m))], {}


@sampler("bmm")
def bmm(d: Draw) -> Drawn:
    z, n, k, m = d.dim(), d.dim(), d.dim(), d.dim()
    dtype = d.dtype(FEW)
    return [TensorType(dtype, (z, n, k)), TensorType(dtype, (z, k, m))], {}


@sampler("_grouped_mm")
def grouped_mm(d: Draw) -> Drawn:
    groups, n, k, m = d.integer(1, 3), d.dim(), 8 * d.dim(), 8 * d.dim()
    dtype = d.one((DType.F32, DType.BF16))
    a, b = d.one((((n, k), (groups, k, m)), ((groups, n, k), (k, m)), ((n, k), (k, m))))
    return [TensorType(dtype, a), TensorType(dtype, b), TensorType(DType.I32, (groups,)), None], {}


@sampler("dot vdot")
def dot(d: Draw) -> Drawn:
    n, dtype = d.dim(), d.dtype(FEW)
    return [TensorType(dtype, (n,)), TensorType(dtype, (n,))], {}


@sampler("mv")
def mv(d: Draw) -> Drawn:
    n, k, dtype = d.dim(), d.dim(), d.dtype(FEW)
    return [TensorType(dtype, (n, k)), TensorType(dtype, (k,))], {}


@sampler("outer ger")
def outer(d: Draw) -> Drawn:
    dtype = d.dtype(FEW)
    return [TensorType(dtype, (d.dim(),)), TensorType(dtype, (d.dim(),))], {}


@sampler("matmul")
def matmul(d: Draw) -> Drawn:
    k, dtype, lead = d.dim(), d.dtype(FEW), d.shape(0, 2)
    left = d.one(((k,), (d.dim(), k), (*d.broadcastable(lead), d.dim(), k)))
    right = d.one(((k,), (k, d.dim()), (*d.broadcastable(lead), k, d.dim())))
    return [TensorType(dtype, left), TensorType(dtype, right)], {}


@sampler("addmm")
def addmm(d: Draw) -> Drawn:
    (a, b), _ = mm(d)
    assert a is not None and b is not None
    return [TensorType(a.dtype, d.broadcastable((a.shape[0], b.shape[1]))), a, b], {}


@sampler("baddbmm")
def baddbmm(d: Draw) -> Drawn:
    (a, b), _ = bmm(d)
    assert a is not None and b is not None
    return [TensorType(a.dtype, d.broadcastable((*a.shape[:2], b.shape[2]))), a, b], {}


@sampler("addmv")
def addmv(d: Draw) -> Drawn:
    (a, b), _ = mv(d)
    assert a is not None and b is not None
    return [TensorType(a.dtype, d.broadcastable(a.shape[:1])), a, b], {}


@sampler("linear")
def linear(d: Draw) -> Drawn:
    dtype, k, m = d.dtype(FEW), d.dim(), d.dim()
    return [
        TensorType(dtype, (*d.shape(0, 3), k)),
        TensorType(dtype, (m, k)),
        d.optional(TensorType(dtype, (m,))),
    ], {}


@sampler("scaled_dot_product_attention")
def attention(d: Draw) -> Drawn:
    dtype, lead = d.dtype(FEW), d.shape(1, 2)
    length, source, e, v = d.dim(), d.dim(), d.dim(), d.dim()
    mask = d.optional(TensorType(d.one((DType.BOOL, dtype)), d.broadcastable((*lead, length, source))))
    shapes = ((*lead, length, e), (*lead, source, e), (*lead, source, v))
    return [*[TensorType(dtype, s) for s in shapes], mask], {"is_causal": mask is None and d.flag()}


# Convolutions, normalizations, pooling


@sampler("conv1d conv2d conv3d conv1d.padding conv2d.padding conv3d.padding")
def conv(d: Draw) -> Drawn:
    n, dtype = int(d.op[4]), d.dtype(FEW)
    groups = d.one((1, 1, 2))
    inner, outer_ = d.one((2, 3)), d.one((3, 4, 1)) * groups
    lead = (d.dim(), inner * groups) if d.flag() else (inner * groups,)
    kernel = tuple(d.integer(1, 3) for _ in range(n))
    x = TensorType(dtype, (*lead, *[d.dim(3) for _ in range(n)]))
    bias = d.optional(TensorType(dtype, (outer_,)))
    attributes = {"groups": groups, "stride": d.integer(1, 2), "dilation": d.integer(1, 2)}
    if d.op.endswith("padding"):
        attributes["padding"] = d.one(("same", "valid"))
        attributes["stride"] = d.one((1, 1, 2))
    else:
        attributes["padding"] = tuple(d.integer(0, 2) for _ in range(n))
    return [x, TensorType(dtype, (outer_, inner, *kernel)), bias], attributes


@sampler("conv_transpose1d conv_transpose2d.input conv_transpose3d.input")
def conv_transpose(d: Draw) -> Drawn:
    n, dtype = int(d.op[14]), d.dtype(FEW)
    groups, inner, outer_ = d.one((1, 1, 2)), d.one((2, 3)), d.one((3, 1))
    x = TensorType(dtype, (d.dim(), inner * groups, *[d.dim(2) for _ in range(n)]))
    weight = TensorType(dtype, (inner * groups, outer_, *[d.integer(1, 3) for _ in range(n)]))
    bias = d.optional(TensorType(dtype, (outer_ * groups,)))
    options = {"stride": d.integer(1, 2), "padding": d.integer(0, 1), "dilation": d.integer(1, 2)}
    return [x, weight, bias], {**options, "groups": groups, "output_padding": d.integer(0, 1)}


@sampler("convolution")
def convolution(d: Draw) -> Drawn:
    transposed = d.flag()
    d.op = "conv_transpose2d.input" if transposed else "conv2d"
    operands, attributes = (conv_transpose if transposed else conv)(d)
    attributes = {k: v if k == "groups" or isinstance(v, tuple) else (v, v) for k, v in attributes.items()}
    return operands, {"output_padding": (0, 0), **attributes, "transposed": transposed}


def _vectors(d: Draw, dtype: DType, channels: object, count: int) -> list[TensorType | None]:
    return [d.optional(TensorType(dtype, (channels,))) for _ in range(count)]  # type: ignore[arg-type]


@sampler("batch_norm")
def batch_norm(d: Draw) -> Drawn:
    x = d.tensor(2, 4, FEW)
    statistics = [TensorType(x.dtype, (x.shape[1],)) for _ in range(2)]
    operands = [x, *_vectors(d, x.dtype, x.shape[1], 2), *statistics]
    return operands, {"training": False, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": True}


@sampler("_native_batch_norm_legit_no_training")
def native_batch_norm(d: Draw) -> Drawn:
    x = d.tensor(2, 4, (DType.F32, DType.F64))
    statistics = [TensorType(x.dtype, (x.shape[1],)) for _ in range(2)]
    return [x, *_vectors(d, x.dtype, x.shape[1], 2), *statistics], {"momentum": 0.1, "eps": 1e-5}


@sampler("instance_norm")
def instance_norm(d: Draw) -> Drawn:
    x = TensorType(d.dtype(FEW), (*d.shape(2, 2), *d.shape(1, 2, 2)))
    operands = [x, *_vectors(d, x.dtype, x.shape[1], 2), None, None]
    return operands, {"use_input_stats": True, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": True}


@sampler("layer_norm rms_norm")
def layer_norm(d: Draw) -> Drawn:
    x = d.tensor(1, 4, FEW)
    tail = x.shape[d.integer(0, x.rank - 1) :]
    count = 1 if d.op == "rms_norm" else 2
    return [x, *[d.optional(TensorType(x.dtype, tail)) for _ in range(count)]], {"normalized_shape": tail}


@sampler("native_layer_norm")
def native_layer_norm(d: Draw) -> Drawn:
    operands, attributes = layer_norm(d)
    return operands, {**attributes, "eps": 1e-5}


@sampler("group_norm")
def group_norm(d: Draw) -> Drawn:
    channels = d.one((4, 6, T))
    x = TensorType(d.dtype(FEW), (d.dim(), channels, *d.shape(0, 2)))
    return [x, *_vectors(d, x.dtype, channels, 2)], {"num_groups": d.one((1, 2))}


@sampler("native_group_norm")
def native_group_norm(d: Draw) -> Drawn:
    x = TensorType(d.dtype(FEW), (d.dim(), d.one((4, 6, T)), *d.shape(1, 2)))
    sizes = {"N": x.shape[0], "C": x.shape[1], "HxW": product(x.shape[2:])}
    return [x, *_vectors(d, x.dtype, x.shape[1], 2)], {**sizes, "group": 2, "eps": 1e-5}


@sampler(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices max_pool1d_with_indices",
    "avg_pool1d avg_pool2d avg_pool3d",
)
def pool(d: Draw) -> Drawn:
    n = int(d.op[8])
    x = TensorType(d.dtype(FEW), (*d.shape(1, 2), *[d.dim(2) for _ in range(n)]))
    kernel = d.integer(1, 3)
    stride = d.one(((), (1,) * n, (2,) * n, (3,) * n))
    attributes = {"kernel_size": (kernel,) * n, "stride": stride, "padding": (d.integer(0, kernel // 2),) * n}
    if d.op.startswith("max"):
        attributes["dilation"] = (d.integer(1, 2),) * n
    return [x], {**attributes, "ceil_mode": d.flag()}


@sampler(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d",
    "adaptive_max_pool3d",
)
def adaptive_pool(d: Draw) -> Drawn:
    n = int(d.op[-2])
    return [d.tensor(n + 1, n + 2, FEW)], {"output_size": tuple(d.integer(1, 4) for _ in range(n))}


@sampler("_adaptive_avg_pool2d _adaptive_avg_pool3d")
def core_adaptive_pool(d: Draw) -> Drawn:
    return adaptive_pool(d)


@sampler(
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d",
    "upsample_bicubic2d upsample_trilinear3d",
)
def upsample(d: Draw) -> Drawn:
    n = int(d.op[-2])
    options = {} if "nearest" in d.op else {"align_corners": False}
    return [d.tensor(n + 2, n + 2, FEW)], {"output_size": tuple(d.dim() for _ in range(n)), **options}


@sampler(
    "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec",
    "upsample_bilinear2d.vec upsample_bicubic2d.vec upsample_trilinear3d.vec",
)
def upsample_vec(d: Draw) -> Drawn:
    n = int(d.op[-6])
    options = {} if "nearest" in d.op else {"align_corners": False}
    factors = tuple(d.one((2.0, 1.5, 0.5, 3.0)) for _ in range(n))
    x = d.tensor(n + 2, n + 2, FEW)
    return [x], {"output_size": None, "scale_factors": factors, **options}


# Indexing


@sampler("embedding")
def embedding(d: Draw) -> Drawn:
    table = TensorType(d.dtype(FLOATS), (d.dim(), d.dim()))
    return [table, d.tensor(0, 3, (DType.I64, DType.I32))], {}


@sampler("gather")
def gather(d: Draw) -> Drawn:
    x = d.tensor(0, 3)
    dim = d.axis(x.rank)
    shape = list(x.shape)
    if shape:
        shape[dim] = d.dim()
    return [x, TensorType(DType.I64, tuple(shape))], {"dim": dim}


@sampler("index_select")
def index_select(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x, TensorType(d.one((DType.I64, DType.I32)), d.shape(0, 1))], {"dim": d.axis(x.rank)}


@sampler("index.Tensor")
def index(d: Draw) -> Drawn:
    x = d.tensor(1, 4)
    shape = d.shape(0, 2)
    found = [
        None if d.integer(0, 2) == 0 else TensorType(DType.I64, d.broadcastable(shape))
        for _ in range(d.integer(1, x.rank))
    ]
    if found[-1] is None:
        found[-1] = TensorType(DType.I64, shape)
    return [x, *found], {}


@sampler("index_put")
def index_put(d: Draw) -> Drawn:
    (x, *found), _ = index(d)
    assert x is not None
    return [x, *found, TensorType(x.dtype, ())], {}


@sampler("scatter.value")
def scatter_value(d: Draw) -> Drawn:
    operands, attributes = gather(d)
    return operands, {**attributes, "value": 1}


@sampler("scatter.src scatter_add")
def scatter(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x, TensorType(DType.I64, x.shape), x], {"dim": d.axis(x.rank)}


@sampler("scatter.reduce")
def scatter_reduce(d: Draw) -> Drawn:
    operands, attributes = scatter(d)
    return operands, {**attributes, "reduce": "add"}


@sampler("scatter.value_reduce")
def scatter_value_reduce(d: Draw) -> Drawn:
    operands, attributes = scatter_value(d)
    return operands, {**attributes, "reduce": "multiply"}


@sampler("one_hot")
def one_hot(d: Draw) -> Drawn:
    return [d.tensor(0, 3, (DType.I64,))], {"num_classes": d.integer(1, 5)}


# Creation and casts


@sampler("zeros ones empty.memory_format rand randn")
def filled(d: Draw) -> Drawn:
    return [], {"size": d.shape(least=0), "dtype": d.one((None, DType.F64, DType.F32))}


@sampler("full")
def full(d: Draw) -> Drawn:
    return [], {"size": d.shape(), "fill_value": d.number(), "dtype": d.one((None, DType.F64, DType.I64))}


@sampler("scalar_tensor")
def scalar_tensor(d: Draw) -> Drawn:
    return [], {"s": d.number(), "dtype": d.one((None, DType.F64, DType.I64))}


@sampler("eye")
def eye(d: Draw) -> Drawn:
    return [], {"n": d.dim()}


@sampler("eye.m")
def eye_m(d: Draw) -> Drawn:
    return [], {"n": d.dim(), "m": d.dim()}


@sampler("linspace")
def linspace(d: Draw) -> Drawn:
    return [], {"start": d.number(), "end": d.one((3, 2.5)), "steps": d.integer(0, 5)}


@sampler("arange")
def arange(d: Draw) -> Drawn:
    return [], {"end": d.one((5, 2.5, 0, S, 2 * S + 1)), "dtype": d.one((None, DType.F32, DType.I32))}


@sampler("arange.start")
def arange_start(d: Draw) -> Drawn:
    return [], {"start": d.one((0, 1, 0.5, S)), "end": d.one((5, 7.5, 2 * S)), "dtype": d.one((None, DType.F32))}


@sampler("arange.start_step")
def arange_step(d: Draw) -> Drawn:
    start, end, step = d.one((0, 1, S)), d.one((9, 2 * S, 7.5)), d.one((1, 2, 0.5, 3))
    return [], {"start": start, "end": end, "step": step}


@sampler("full_like")
def full_like(d: Draw) -> Drawn:
    return [d.tensor()], {"fill_value": d.number(), "dtype": d.one((None, DType.F64))}


@sampler("new_zeros new_ones new_empty")
def new_filled(d: Draw) -> Drawn:
    return [d.tensor()], {"size": d.shape(least=0), "dtype": d.one((None, DType.F64))}


@sampler("new_full")
def new_full(d: Draw) -> Drawn:
    return [d.tensor()], {"size": d.shape(), "fill_value": d.number(), "dtype": d.one((None, DType.F64))}


@sampler("_to_copy to.dtype_layout")
def to_copy(d: Draw) -> Drawn:
    return [d.tensor()], {"dtype": d.one((None, *ANY))}


@sampler("to.dtype")
def to_dtype(d: Draw) -> Drawn:
    return [d.tensor()], {"dtype": d.dtype()}


@sampler("to.device")
def to_device(d: Draw) -> Drawn:
    return [d.tensor()], {"dtype": d.dtype(), "device": "cpu"}


@sampler("type_as to.other")
def type_as(d: Draw) -> Drawn:
    return [d.tensor(), d.tensor()], {}


@sampler("view.dtype")
def view_dtype(d: Draw) -> Drawn:
    return [d.tensor(1, 3)], {"dtype": d.dtype()}


def recurrent(d: Draw, gates: int, states: int) -> Drawn:
    directions, layers, biases, batch_first = d.one((1, 2)), d.one((1, 2)), d.flag(), d.flag()
    batch, time, features, width = d.dim(), d.dim(), d.one((3, 4)), d.one((2, 5))
    dtype = d.dtype((DType.F32, DType.F32, DType.F64))
    shapes: list[tuple[object, ...]] = [(batch, time, features) if batch_first else (time, batch, features)]
    shapes += [(layers * directions, batch, width)] * states
    for layer in range(layers):
        inputs = features if layer == 0 else directions * width
        cell: list[tuple[object, ...]] = [(gates * width, inputs), (gates * width, width)]
        shapes += (cell + [(gates * width,)] * (2 if biases else 0)) * directions
    attributes = {
        "has_biases": biases,
        "num_layers": layers,
        "dropout": 0.0,
        "train": False,
        "bidirectional": directions == 2,
        "batch_first": batch_first,
    }
    if states == 2:
        attributes["operand_segment_sizes"] = (1, 2, len(shapes) - 3)
    return [TensorType(dtype, shape) for shape in shapes], attributes  # type: ignore[arg-type]


@sampler("lstm.input")
def lstm(d: Draw) -> Drawn:
    return recurrent(d, 4, 2)


@sampler("gru.input")
def gru(d: Draw) -> Drawn:
    return recurrent(d, 3, 1)


@sampler("rnn_tanh.input rnn_relu.input")
def rnn(d: Draw) -> Drawn:
    return recurrent(d, 1, 1)
