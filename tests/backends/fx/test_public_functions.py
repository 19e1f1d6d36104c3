"""Each public function stands for exactly its ATen overload: same bits, and it traces back to the same name."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from graphopt.analysis import run_graph
from graphopt.backends.fx.public_functions import PUBLIC
from graphopt.ir import Graph
from graphopt.ops import find_overload, parse
from tests.backends.fx.helpers import emit

UNARY = """
abs acos asin atan ceil cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 floor frac isfinite isinf isnan
lgamma log log10 log1p log2 logical_not logit nan_to_num neg rad2deg reciprocal relu round rsqrt selu celu sigmoid
sign sin sinc sinh sqrt square tan tanh trunc asinh atanh clone detach log_sigmoid mish hardswish hardsigmoid relu6
silu gelu elu hardtanh leaky_relu softplus all any max min mean median prod sum argmax argmin argsort t tril triu
contiguous
zeros_like ones_like glu sort
"""
BINARY = """
add.Tensor sub.Tensor mul.Tensor div.Tensor eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor
remainder.Tensor atan2 fmax fmin fmod.Tensor heaviside logical_and logical_or logical_xor maximum minimum
pow.Tensor_Tensor rsub.Tensor xlogy.Tensor expand_as view_as type_as
"""
SCALAR = """
add.Scalar sub.Scalar mul.Scalar div.Scalar eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar
remainder.Scalar fmod.Scalar rsub.Scalar
"""
F32 = "input %x: f32[4, 6]"
SQUARE = "input %x: f32[4, 4]"
I64 = "input %i: i64[4, 6]"
IMAGE = "input %x: f32[2, 4, 8, 8]"
SEQUENCE = "input %x: f32[2, 4, 8]"
VOLUME = "input %x: f32[1, 2, 6, 6, 6]"

ROWS: dict[str, str | list[str]] = {
    **{name: f"{F32}\n%y = {name}(%x)" for name in UNARY.split()},
    **{name: f"{F32}\ninput %z: f32[4, 6]\n%y = {name}(%x, %z)" for name in BINARY.split()},
    **{name: f"{F32}\n%y = {name}(%x) {{other=0.75}}" for name in SCALAR.split()},
    "acosh": f"{F32}\n%w = add.Scalar(%x) {{other=2.0}}\n%y = acosh(%w)",
    "bitwise_not": f"{I64}\n%y = bitwise_not(%i)",
    "sort": f"{F32}\n%y, %j = sort(%x) {{dim=0, descending=true}}",
    "all.dim": f"{F32}\n%y = all.dim(%x) {{dim=1, keepdim=true}}",
    "any.dim": f"{F32}\n%y = any.dim(%x) {{dim=1}}",
    "amax": f"{F32}\n%y = amax(%x) {{dim=(1,), keepdim=true}}",
    "amin": f"{F32}\n%y = amin(%x) {{dim=(0,)}}",
    "argmax": [f"{F32}\n%y = argmax(%x)", f"{F32}\n%y = argmax(%x) {{dim=1, keepdim=true}}"],
    "argmin": f"{F32}\n%y = argmin(%x) {{dim=1}}",
    "argsort": f"{F32}\n%y = argsort(%x) {{dim=0, descending=true}}",
    "cumsum": f"{F32}\n%y = cumsum(%x) {{dim=1, dtype=f64}}",
    "cumprod": f"{F32}\n%y = cumprod(%x) {{dim=1}}",
    "softmax.int": f"{F32}\n%y = softmax.int(%x) {{dim=-1}}",
    "log_softmax.int": f"{F32}\n%y = log_softmax.int(%x) {{dim=-1, dtype=f64}}",
    "logsumexp": f"{F32}\n%y = logsumexp(%x) {{dim=(1,), keepdim=true}}",
    "max.dim": f"{F32}\n%y, %j = max.dim(%x) {{dim=1}}",
    "min.dim": f"{F32}\n%y, %j = min.dim(%x) {{dim=1, keepdim=true}}",
    "median.dim": f"{F32}\n%y, %j = median.dim(%x) {{dim=1, keepdim=true}}",
    "mean.dim": f"{F32}\n%y = mean.dim(%x) {{dim=(0, 1), keepdim=true}}",
    "sum.dim_IntList": [
        f"{F32}\n%y = sum.dim_IntList(%x) {{dim=(1,), dtype=f64}}",
        f"{F32}\n%y = sum.dim_IntList(%x) {{dim=none}}",
    ],
    "prod.dim_int": f"{F32}\n%y = prod.dim_int(%x) {{dim=1}}",
    "std.correction": f"{F32}\n%y = std.correction(%x) {{dim=(1,), correction=0, keepdim=true}}",
    "var.correction": [
        f"{F32}\n%y = var.correction(%x) {{dim=(1,)}}",
        f"{F32}\n%y = var.correction(%x) {{correction=0}}",
    ],
    "var_mean.correction": f"{F32}\n%y, %m = var_mean.correction(%x) {{dim=(1,), correction=0}}",
    "topk": f"{F32}\n%y, %j = topk(%x) {{k=3, dim=0, largest=false}}",
    "clamp": [f"{F32}\n%y = clamp(%x) {{min=0.2, max=0.6}}", f"{F32}\n%y = clamp(%x) {{max=0.6}}"],
    "clamp.Tensor": f"{F32}\ninput %lo: f32[6]\n%y = clamp.Tensor(%x, %lo)",
    "clamp_min": f"{F32}\n%y = clamp_min(%x) {{min=0.5}}",
    "clamp_max": f"{F32}\n%y = clamp_max(%x) {{max=0.5}}",
    "threshold": f"{F32}\n%y = threshold(%x) {{threshold=0.5, value=0.25}}",
    "pow.Tensor_Scalar": f"{F32}\n%y = pow.Tensor_Scalar(%x) {{exponent=3}}",
    "prelu": f"{F32}\nparameter %w: f32[6]\n%y = prelu(%x, %w)",
    "leaky_relu": f"{F32}\n%y = leaky_relu(%x) {{negative_slope=0.2}}",
    "elu": [f"{F32}\n%y = elu(%x) {{alpha=0.5}}", f"{F32}\n%y = elu(%x) {{alpha=0.5, scale=2.0}}"],
    "gelu": f'{F32}\n%y = gelu(%x) {{approximate="tanh"}}',
    "hardtanh": f"{F32}\n%y = hardtanh(%x) {{min_val=0.25, max_val=0.5}}",
    "softplus": f"{F32}\n%y = softplus(%x) {{beta=2.0, threshold=1.0}}",
    "celu": f"{F32}\n%y = celu(%x) {{alpha=0.5}}",
    "glu": f"{F32}\n%y = glu(%x) {{dim=0}}",
    "tril": f"{F32}\n%y = tril(%x) {{diagonal=1}}",
    "triu": f"{F32}\n%y = triu(%x) {{diagonal=1}}",
    "where.self": f"{F32}\n%c = gt.Scalar(%x) {{other=0.5}}\n%n = neg(%x)\n%y = where.self(%c, %x, %n)",
    "masked_fill.Scalar": f"{F32}\n%c = gt.Scalar(%x) {{other=0.5}}\n%y = masked_fill.Scalar(%x, %c) {{value=-1.0}}",
    "masked_fill.Tensor": (
        f"{F32}\ninput %v: f32[]\n%c = gt.Scalar(%x) {{other=0.5}}\n%y = masked_fill.Tensor(%x, %c, %v)"
    ),
    **{
        f"bitwise_{name}.Tensor": f"{I64}\ninput %j: i64[4, 6]\n%y = bitwise_{name}.Tensor(%i, %j)"
        for name in ("and", "or", "xor")
    },
    "addcmul": f"{F32}\ninput %a: f32[4, 6]\ninput %b: f32[4, 6]\n%y = addcmul(%x, %a, %b) {{value=0.5}}",
    "addcdiv": f"{F32}\ninput %a: f32[4, 6]\ninput %b: f32[4, 6]\n%y = addcdiv(%x, %a, %b) {{value=0.5}}",
    "lerp.Scalar": f"{F32}\ninput %a: f32[4, 6]\n%y = lerp.Scalar(%x, %a) {{weight=0.3}}",
    "lerp.Tensor": f"{F32}\ninput %a: f32[4, 6]\ninput %w: f32[4, 6]\n%y = lerp.Tensor(%x, %a, %w)",
    "matmul": f"{F32}\ninput %w: f32[6, 3]\n%y = matmul(%x, %w)",
    "mm": f"{F32}\ninput %w: f32[6, 3]\n%y = mm(%x, %w)",
    "bmm": f"{SEQUENCE}\ninput %w: f32[2, 8, 3]\n%y = bmm(%x, %w)",
    "mv": f"{F32}\ninput %w: f32[6]\n%y = mv(%x, %w)",
    "dot": "input %x: f32[6]\ninput %w: f32[6]\n%y = dot(%x, %w)",
    "outer": "input %x: f32[6]\ninput %w: f32[5]\n%y = outer(%x, %w)",
    "addmm": f"{F32}\ninput %w: f32[6, 3]\ninput %b: f32[3]\n%y = addmm(%b, %x, %w) {{beta=0.5, alpha=2}}",
    "baddbmm": f"{SEQUENCE}\ninput %w: f32[2, 8, 3]\ninput %b: f32[2, 4, 3]\n%y = baddbmm(%b, %x, %w) {{alpha=2}}",
    "linear": [
        f"{F32}\nparameter %w: f32[3, 6]\nparameter %b: f32[3]\n%y = linear(%x, %w, %b)",
        f"{F32}\nparameter %w: f32[3, 6]\n%y = linear(%x, %w)",
    ],
    "conv1d": f"{SEQUENCE}\nparameter %w: f32[3, 4, 3]\n%y = conv1d(%x, %w) {{padding=(1,)}}",
    "conv2d": [
        f"{IMAGE}\nparameter %w: f32[6, 2, 3, 3]\nparameter %b: f32[6]\n"
        "%y = conv2d(%x, %w, %b) {stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2}",
        f"{IMAGE}\nparameter %w: f32[6, 4, 1, 1]\n%y = conv2d(%x, %w)",
    ],
    "conv2d.padding": f'{IMAGE}\nparameter %w: f32[6, 4, 3, 3]\n%y = conv2d.padding(%x, %w) {{padding="same"}}',
    "conv3d": f"{VOLUME}\nparameter %w: f32[3, 2, 3, 3, 3]\n%y = conv3d(%x, %w)",
    "conv_transpose1d": f"{SEQUENCE}\nparameter %w: f32[4, 3, 3]\n%y = conv_transpose1d(%x, %w) {{stride=(2,)}}",
    "conv_transpose2d.input": (
        f"{IMAGE}\nparameter %w: f32[4, 3, 3, 3]\n"
        "%y = conv_transpose2d.input(%x, %w) {stride=(2, 2), output_padding=(1, 1)}"
    ),
    "conv_transpose3d.input": f"{VOLUME}\nparameter %w: f32[2, 3, 3, 3, 3]\n%y = conv_transpose3d.input(%x, %w)",
    "convolution": (
        f"{IMAGE}\nparameter %w: f32[6, 4, 3, 3]\n%y = convolution(%x, %w) {{stride=(1, 1), padding=(1, 1), "
        "dilation=(1, 1), transposed=false, output_padding=(0, 0), groups=1}"
    ),
    "embedding": "input %i: i64[4, 6]\nparameter %w: f32[9, 5]\n%y = embedding(%w, %i) {padding_idx=1}",
    "batch_norm": (
        f"{IMAGE}\nparameter %w: f32[4]\nparameter %b: f32[4]\nbuffer %m: f32[4]\nbuffer %v: f32[4]\n"
        "%y = batch_norm(%x, %w, %b, %m, %v) {training=false, momentum=0.1, eps=1e-05, cudnn_enabled=true}"
    ),
    "instance_norm": (
        f"{IMAGE}\n%y = instance_norm(%x, none, none, none, none) "
        "{use_input_stats=true, momentum=0.1, eps=1e-05, cudnn_enabled=true}"
    ),
    "group_norm": f"{IMAGE}\nparameter %w: f32[4]\n%y = group_norm(%x, %w) {{num_groups=2, eps=0.01}}",
    "layer_norm": (
        f"{F32}\nparameter %w: f32[6]\nparameter %b: f32[6]\n%y = layer_norm(%x, %w, %b) {{normalized_shape=(6,)}}"
    ),
    "rms_norm": f"{F32}\nparameter %w: f32[6]\n%y = rms_norm(%x, %w) {{normalized_shape=(6,), eps=0.01}}",
    "adaptive_avg_pool1d": f"{SEQUENCE}\n%y = adaptive_avg_pool1d(%x) {{output_size=(3,)}}",
    "adaptive_avg_pool2d": f"{IMAGE}\n%y = adaptive_avg_pool2d(%x) {{output_size=(3, 1)}}",
    "adaptive_avg_pool3d": f"{VOLUME}\n%y = adaptive_avg_pool3d(%x) {{output_size=(3, 1, 2)}}",
    "avg_pool1d": f"{SEQUENCE}\n%y = avg_pool1d(%x) {{kernel_size=(2,), padding=(1,), count_include_pad=false}}",
    "avg_pool2d": f"{IMAGE}\n%y = avg_pool2d(%x) {{kernel_size=(2, 2), stride=(1, 1), divisor_override=3}}",
    "avg_pool3d": f"{VOLUME}\n%y = avg_pool3d(%x) {{kernel_size=(2, 2, 2), ceil_mode=true}}",
    "max_pool1d": f"{SEQUENCE}\n%y = max_pool1d(%x) {{kernel_size=(3,), stride=(2,), padding=(1,)}}",
    "max_pool2d": f"{IMAGE}\n%y = max_pool2d(%x) {{kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)}}",
    "max_pool3d": f"{VOLUME}\n%y = max_pool3d(%x) {{kernel_size=(2, 2, 2), dilation=(2, 2, 2)}}",
    "pixel_shuffle": f"{IMAGE}\n%y = pixel_shuffle(%x) {{upscale_factor=2}}",
    "pixel_unshuffle": f"{IMAGE}\n%y = pixel_unshuffle(%x) {{downscale_factor=2}}",
    "channel_shuffle": f"{IMAGE}\n%y = channel_shuffle(%x) {{groups=2}}",
    "pad": f'{IMAGE}\n%y = pad(%x) {{pad=(1, 2, 0, 1), mode="reflect"}}',
    "constant_pad_nd": f"{IMAGE}\n%y = constant_pad_nd(%x) {{pad=(1, 2), value=0.5}}",
    "one_hot": "input %i: i64[4, 6]\n%y = one_hot(%i) {num_classes=9}",
    "scaled_dot_product_attention": [
        "input %x: f32[1, 2, 5, 4]\ninput %k: f32[1, 2, 5, 4]\ninput %v: f32[1, 2, 5, 4]\n"
        "%y = scaled_dot_product_attention(%x, %k, %v) {is_causal=true, scale=0.3}",
        "input %x: f32[1, 2, 5, 4]\ninput %m: f32[5, 5]\n%y = scaled_dot_product_attention(%x, %x, %x, %m)",
    ],
    "cat": f"{F32}\n%y = cat(%x, %x) {{dim=1}}",
    "stack": f"{F32}\n%y = stack(%x, %x) {{dim=-1}}",
    "chunk": f"{F32}\n%y, %z = chunk(%x) {{chunks=2, dim=1}}",
    "split.Tensor": f"{F32}\n%y, %z = split.Tensor(%x) {{split_size=4, dim=1}}",
    "split_with_sizes": f"{F32}\n%y, %z = split_with_sizes(%x) {{split_sizes=(1, 5), dim=1}}",
    "unbind.int": [
        f"{F32}\n%y, %b, %c, %d = unbind.int(%x)",
        "input %x: f32[3, 1]\n%y = unbind.int(%x) {dim=1}",
    ],
    "diagonal": f"{SQUARE}\n%y = diagonal(%x) {{offset=1}}",
    "flatten.using_ints": f"{IMAGE}\n%y = flatten.using_ints(%x) {{start_dim=1, end_dim=2}}",
    "unflatten.int": f"{F32}\n%y = unflatten.int(%x) {{dim=1, sizes=(2, 3)}}",
    "flip": f"{F32}\n%y = flip(%x) {{dims=(0, 1)}}",
    "gather": "input %x: f32[9, 6]\ninput %i: i64[4, 6]\n%y = gather(%x, %i) {dim=0}",
    "scatter.src": (
        "input %x: f32[9, 6]\ninput %i: i64[4, 6]\ninput %s: f32[4, 6]\n%y = scatter.src(%x, %i, %s) {dim=0}"
    ),
    "index_select": "input %x: f32[9, 6]\ninput %i: i64[4]\n%y = index_select(%x, %i) {dim=0}",
    "movedim.int": f"{IMAGE}\n%y = movedim.int(%x) {{source=1, destination=-1}}",
    "narrow": f"{F32}\n%y = narrow(%x) {{dim=1, start=1, length=3}}",
    "permute": f"{IMAGE}\n%y = permute(%x) {{dims=(0, 2, 3, 1)}}",
    "transpose.int": f"{IMAGE}\n%y = transpose.int(%x) {{dim0=1, dim1=-1}}",
    "repeat_interleave.self_int": f"{F32}\n%y = repeat_interleave.self_int(%x) {{repeats=2, dim=1}}",
    "reshape": f"{F32}\n%y = reshape(%x) {{shape=(8, 3)}}",
    "roll": f"{F32}\n%y = roll(%x) {{shifts=(1, 2), dims=(0, 1)}}",
    "select.int": f"{F32}\n%y = select.int(%x) {{dim=1, index=-1}}",
    "squeeze": "input %x: f32[1, 4, 1]\n%y = squeeze(%x)",
    "squeeze.dim": "input %x: f32[1, 4, 1]\n%y = squeeze.dim(%x) {dim=0}",
    "squeeze.dims": "input %x: f32[1, 4, 1]\n%y = squeeze.dims(%x) {dim=(0, 2)}",
    "unsqueeze": f"{F32}\n%y = unsqueeze(%x) {{dim=1}}",
    "tile": f"{F32}\n%y = tile(%x) {{dims=(2, 1)}}",
    "repeat": f"{F32}\n%y = repeat(%x) {{repeats=(2, 1)}}",
    "expand": "input %x: f32[1, 6]\n%y = expand(%x) {size=(4, -1)}",
    "view": f"{F32}\n%y = view(%x) {{size=(3, 8)}}",
    "contiguous": f'{IMAGE}\n%y = contiguous(%x) {{memory_format="channels_last"}}',
    "clone": f'{IMAGE}\n%y = clone(%x) {{memory_format="channels_last"}}',
    "to.dtype": [f"{F32}\n%y = to.dtype(%x) {{dtype=f64}}", f"{F32}\n%y = to.dtype(%x) {{dtype=f32, copy=true}}"],
    "to.dtype_layout": f"{F32}\n%y = to.dtype_layout(%x) {{dtype=f64}}",
    "to.device": f'{F32}\n%y = to.device(%x) {{device="cpu", dtype=f64}}',
    "arange": "input %x: f32[2]\n%y = arange() {end=5, dtype=f32}",
    "arange.start": "input %x: f32[2]\n%y = arange.start() {start=2, end=5}",
    "arange.start_step": "input %x: f32[2]\n%y = arange.start_step() {start=0, end=5, step=2}",
    "full": "input %x: f32[2]\n%y = full() {size=(2, 3), fill_value=0.5, dtype=f64}",
    "zeros": "input %x: f32[2]\n%y = zeros() {size=(2, 3)}",
    "ones": "input %x: f32[2]\n%y = ones() {size=(2, 3), dtype=i64}",
    "full_like": f"{F32}\n%y = full_like(%x) {{fill_value=3, dtype=i64}}",
    "scalar_tensor": "input %x: f32[2]\n%y = scalar_tensor() {s=0.5, dtype=f64}",
}

CASES = [
    pytest.param(name, text, id=f"{name}-{i}")
    for name, texts in ROWS.items()
    for i, text in enumerate([texts] if isinstance(texts, str) else texts)
]

# PyTorch's parser takes the first overload that fits: numbers promote as 0-dim tensors do, and arguments that equal
# their defaults are not told apart from absent ones.
SAME = {
    **{f"{name}.Scalar": f"{name}.Tensor" for name in ("add", "sub", "mul", "div")},
    "var.correction": "var.dim",
    "to.dtype_layout": "to.dtype",
}


def test_every_row_has_an_example() -> None:
    assert {f"aten.{name}" for name in ROWS} == set(PUBLIC)


def sample(graph: Graph) -> list[torch.Tensor]:
    """Values in (0, 1), where every function above is defined; small non-negative integers."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(v.shape, generator=generator) * 0.9 + 0.05
        if v.dtype.is_floating
        else torch.randint(0, 9, v.shape, generator=generator)
        for v in graph.inputs
    ]


@pytest.mark.parametrize(("name", "text"), CASES)
def test_same_bits_and_same_overload(name: str, text: str) -> None:
    results = text.rpartition("\n")[2].partition(" = ")[0]
    graph = parse(f"{text}\nreturn {results}")
    inputs = sample(graph)
    module = emit(graph)
    for got, expected in zip(module(*inputs), run_graph(graph, *inputs)):
        assert got.dtype == expected.dtype and got.stride() == expected.stride()
        assert torch.equal(got, expected)
    traced = make_fx(module, pre_dispatch=True)(*inputs)
    called = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    expected_names = [f"aten.{name}", f"aten.{SAME.get(name, name)}"]
    assert any(find_overload(expected) in called for expected in expected_names), called
    if "scale=2.0" not in text:
        assert "torch.ops.aten" not in module.code
