"""Samplers: Convolutions, normalizations, pooling, recurrent layers."""

from __future__ import annotations

from graphopt.ir import DType, TensorType
from graphopt.ir.dims import product
from tests.ops.calls import FEW, Draw, Drawn, T, sampler


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


@sampler("col2im")
def col2im(d: Draw) -> Drawn:
    image, kernel, dilation, padding, stride = (
        (d.integer(low, high), d.integer(low, high)) for low, high in ((4, 6), (1, 3), (1, 2), (0, 1), (1, 2))
    )
    options = zip(image, kernel, dilation, padding, stride)
    counts = [(o + 2 * p - i * (k - 1) - 1) // s + 1 for o, k, i, p, s in options]
    columns = (d.dim() * product(kernel), d.one((product(counts), product(counts), 3)))
    x = TensorType(d.dtype(FEW), (*d.shape(0, 1), *columns))
    names = ("output_size", "kernel_size", "dilation", "padding", "stride")
    return [x], dict(zip(names, (image, kernel, dilation, padding, stride)))


@sampler(
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d",
    "upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
)
def upsample(d: Draw) -> Drawn:
    n = int(d.op[-2])
    options = {} if "nearest" in d.op else {"align_corners": False}
    return [d.tensor(n + 2, n + 2, FEW)], {"output_size": tuple(d.dim() for _ in range(n)), **options}


@sampler(
    "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec upsample_linear1d.vec",
    "upsample_bilinear2d.vec upsample_bicubic2d.vec upsample_trilinear3d.vec _upsample_nearest_exact1d.vec",
    "_upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec",
)
def upsample_vec(d: Draw) -> Drawn:
    n = int(d.op[-6])
    options = {} if "nearest" in d.op else {"align_corners": False}
    factors = tuple(d.one((2.0, 1.5, 0.5, 3.0)) for _ in range(n))
    x = d.tensor(n + 2, n + 2, FEW)
    return [x], {"output_size": None, "scale_factors": factors, **options}


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
