"""Quantization: its numbers as properties, its derivatives, and how PyTorch and the IR see it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, TypeInferenceError
from graphopt.ops.quantization import FORMATS, Format, is_packed, pack, unpack
from graphopt.ops.quantization.packing import code_values
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passmanager import PassContext

INTEGERS = [f for f in FORMATS.values() if not f.is_float and f.bits <= 16]
FLOATS = [f for f in FORMATS.values() if f.is_float]
GRIDS = ["tensor", "axis", "blocks"]


@st.composite
def cases(draw: st.DrawFn, formats: list[Format]) -> dict[str, object]:
    """x, and a scale and zero point of any granularity."""
    format_ = draw(st.sampled_from(formats))
    grid = draw(st.sampled_from(GRIDS))
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    axis = draw(st.integers(-len(shape), len(shape) - 1)) if grid != "tensor" else None
    block = draw(st.integers(1, 4)) if grid == "blocks" else 0
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    parameter = _parameter_shape(shape, axis, block)
    scale = torch.rand(parameter, generator=generator) * 10.0 ** draw(st.integers(-3, 2)) + 1e-6
    zero = None
    if not format_.is_float and draw(st.booleans()):
        low, high = int(format_.low), int(format_.high)
        zero = torch.randint(low, high + 1, parameter, generator=generator).to(format_.storage)
    spread = draw(st.sampled_from([0.3, 1.0, 3.0]))
    x = torch.randn(shape, generator=generator) * scale.max() * format_.high * spread
    return {"x": x, "scale": scale, "zero_point": zero, "dtype": format_.name, "axis": axis, "block_size": block}


def _parameter_shape(shape: list[int], axis: int | None, block: int) -> list[int]:
    if axis is None:
        return []
    axis %= len(shape)
    if not block:
        return [shape[axis]]
    return [*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :]]


def elementwise(case: dict[str, object]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each element, by a loop."""
    x, scale, zero = case["x"], case["scale"], case["zero_point"]
    axis, block = case["axis"], case["block_size"]
    scales, zeros = torch.empty_like(x, dtype=torch.float64), torch.zeros_like(x, dtype=torch.float64)
    for index in torch.cartesian_prod(*[torch.arange(n) for n in x.shape]).reshape(-1, x.dim()).tolist():
        if axis is None:
            at: tuple[int, ...] = ()
        elif not block:
            at = (index[axis],)
        else:
            at = tuple(i // block if d == axis % x.dim() else i for d, i in enumerate(index))
        scales[tuple(index)] = scale[at].double()
        if zero is not None:
            zeros[tuple(index)] = zero[at].double()
    return scales, zeros


def roundtrip(case: dict[str, object]) -> torch.Tensor:
    options = {k: v for k, v in case.items() if k != "x"}
    return graphopt.dequantize(graphopt.quantize(case["x"], **options), **options)


@settings(deadline=None, max_examples=60)
@given(cases(INTEGERS))
def test_an_integer_is_the_nearest_ties_to_even(case: dict[str, object]) -> None:
    format_ = FORMATS[case["dtype"]]
    scales, zeros = elementwise(case)
    options = {k: v for k, v in case.items() if k != "x"}
    q = graphopt.quantize(case["x"], **options)
    assert q.dtype is format_.storage
    ratio = case["x"] / scales.float()
    expected = (ratio.double().round() + zeros).clamp(format_.low, format_.high)
    assert torch.equal(q.double(), expected)


@settings(deadline=None, max_examples=60)
@given(cases(INTEGERS))
def test_the_error_is_at_most_half_a_step_inside_the_range(case: dict[str, object]) -> None:
    format_ = FORMATS[case["dtype"]]
    scales, zeros = elementwise(case)
    x = case["x"].double()
    low, high = (format_.low - zeros) * scales, (format_.high - zeros) * scales
    error = (roundtrip(case).double() - x).abs()
    rounding = 4e-7 * (x.abs() + scales)
    assert bool((error <= scales / 2 + rounding)[(x >= low) & (x <= high)].all())
    beyond = torch.where(x < low, low - x, x - high).clamp(min=0)
    assert bool((error <= scales / 2 + beyond + rounding).all())


@settings(deadline=None, max_examples=40)
@given(cases([*INTEGERS, *FLOATS]))
def test_zero_is_exact_and_order_is_kept(case: dict[str, object]) -> None:
    zeros = {**case, "x": torch.zeros_like(case["x"])}
    assert torch.equal(roundtrip(zeros), torch.zeros_like(case["x"]))
    step = case["x"].abs() * 0.1
    assert bool((roundtrip({**case, "x": case["x"] + step}) >= roundtrip(case)).all())


@pytest.mark.parametrize("format_", FLOATS, ids=lambda f: f.name)
def test_floats_are_the_nearest_of_the_grid(format_: Format) -> None:
    if is_packed(format_.dtype):
        grid = code_values(format_.dtype).double()
    else:
        grid = torch.arange(256, dtype=torch.uint8).view(format_.storage).double()
    grid = grid[grid.isfinite()].unique()
    assert grid.max() == format_.high
    between = (grid[1:] + grid[:-1]) / 2
    x = torch.cat([grid, between, between * 1.001, grid * 1.01, torch.tensor([1e9, -1e9])]).float()
    one = torch.tensor(1.0)
    found = graphopt.fake_quantize(x, one, dtype=format_.name).double()
    distance = (x.double()[:, None] - grid).abs().amin(1)
    assert torch.equal((found - x.double()).abs(), distance)
    assert torch.equal(graphopt.fake_quantize(found.float(), one, dtype=format_.name).double(), found)


@pytest.mark.parametrize("name", ["int2", "uint2", "int4", "uint4", "float4_e2m1", "float6_e2m3", "float6_e3m2"])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 17])
def test_packing_is_undone_by_unpacking(name: str, count: int) -> None:
    format_ = FORMATS[name]
    x = torch.linspace(-20, 20, count)
    stored = graphopt.quantize(x, torch.tensor(1.0), dtype=name)
    packed = pack(stored, format_.dtype)
    assert packed.numel() == -(-count * format_.dtype.bits // 8)
    assert torch.equal(unpack(packed, count, format_.dtype).float(), stored.float())


def test_special_numbers() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 2.5, -2.5])
    assert graphopt.quantize(x, torch.tensor(1.0)).tolist() == [-128, 127, -128, 2, -2]
    assert graphopt.quantize(x, torch.tensor(1.0), dtype="uint8").tolist() == [0, 255, 0, 2, 0]
    large = torch.tensor([3e9, -3e9])
    assert graphopt.quantize(large, torch.tensor(1.0), dtype="int32").tolist() == [2**31 - 1, -(2**31)]


@settings(deadline=None, max_examples=30)
@given(cases(INTEGERS))
def test_the_derivative_is_straight_through(case: dict[str, object]) -> None:
    """By x 1 inside and 0 outside; by the scale round(r) − r inside, bound − zero point outside."""
    format_ = FORMATS[case["dtype"]]
    scales, zeros = elementwise(case)
    x = case["x"].clone().requires_grad_()
    scale = case["scale"].clone().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    options = {k: v for k, v in case.items() if k not in ("x", "scale")}
    (graphopt.fake_quantize(x, scale, **options) * weights).sum().backward()
    ratio = (case["x"] / scales.float()).double()
    number = ratio.round() + zeros
    inside = (number >= format_.low) & (number <= format_.high)
    assert torch.equal(x.grad, weights * inside)
    by_scale = torch.where(inside, ratio.round() - ratio, number.clamp(format_.low, format_.high) - zeros)
    dummy = scale.detach().clone().requires_grad_()
    from graphopt.ops.quantization.arithmetic import spread

    spread(dummy, x.shape, case["axis"], case["block_size"]).expand(x.shape).backward((by_scale * weights).float())
    torch.testing.assert_close(scale.grad, dummy.grad, rtol=1e-4, atol=1e-3 * float(number.abs().max() + 1))


def test_a_stored_weight_learns_its_scale() -> None:
    q = torch.tensor([[1, -2], [3, 4]], dtype=torch.int8)
    scale = torch.tensor([0.5, 2.0], requires_grad=True)
    zero = torch.tensor([1, 0], dtype=torch.int8)
    graphopt.dequantize(q, scale, zero, axis=0).sum().backward()
    assert scale.grad.tolist() == [-3.0, 7.0]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))
        self.scale = torch.nn.Parameter(torch.full((6,), 0.05))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = graphopt.quantize(x, torch.tensor(0.1), torch.tensor(3, dtype=torch.uint8), "uint8")
        x = graphopt.dequantize(q, torch.tensor(0.1), torch.tensor(3, dtype=torch.uint8))
        weight = graphopt.fake_quantize(self.weight, self.scale, dtype="int4", axis=0)
        return torch.nn.functional.linear(x, weight)


def test_models_export_and_run_in_fx() -> None:
    net, x = Net(), torch.randn(3, 4)
    expected = net(x)
    exported = torch.export.export(net, (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
    assert torch.equal(exported.module()(x), expected)
    compiled = graphopt.compile(net, (x,), target="fx", dynamic_shapes="batch")
    names = [node.op.name for node in compiled.graph]
    assert {"graphopt.quantize", "graphopt.dequantize", "graphopt.fake_quantize"} <= set(names)
    assert torch.equal(compiled(x), expected)
    compiled(torch.randn(5, 4)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum()) for p in compiled.parameters())
    assert torch.equal(copy.deepcopy(compiled)(x), expected)


def test_torch_compile_takes_them() -> None:
    x = torch.randn(4, 4)
    compiled = torch.compile(lambda y: graphopt.fake_quantize(y, torch.tensor(0.1)) * 2, backend="aot_eager")
    assert torch.equal(compiled(x), graphopt.fake_quantize(x, torch.tensor(0.1)) * 2)


TEXT = """
parameter %w: f32[4, 6] = {w}
constant %s: f32[4] = (0.1, 0.2, 0.3, 0.4)
input %x: f32[N, 6]
%q = graphopt.quantize(%w, %s, none) {{dtype="{dtype}", axis=0}}
%d = graphopt.dequantize(%q, %s, none) {{dtype="{dtype}", axis=0}}
%y = linear(%x, %d)
return %y"""


def weighted(dtype: str) -> graphopt.Graph:
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(2)).tolist()
    return graphopt.parse(TEXT.format(dtype=dtype, w=tuple(tuple(row) for row in w)))


@pytest.mark.parametrize("dtype", ["int8", "int4", "uint2", "float8_e4m3fn", "float4_e2m1"])
def test_constants_fold_to_stored_numbers_and_stay_stored(dtype: str) -> None:
    graph, x = weighted(dtype), torch.randn(2, 6)
    expected = run_graph(graph, x)
    FoldConstants().run(graph, PassContext(trainable=False))
    assert [node.op.name for node in graph] == ["graphopt.dequantize", "aten.linear"]
    stored = graph.nodes[0].operands[0]
    assert stored.constant is not None and stored.dtype is FORMATS[dtype].dtype
    again = graphopt.parse(str(graph), {name: v.constant.tensor for name, v in graph.constants.items()})
    assert str(again) == str(graph)
    assert torch.equal(run_graph(again, x)[0], expected[0])
    FoldConstants(decode=True).run(graph, PassContext(trainable=False))
    assert [node.op.name for node in graph] == ["aten.linear"]
    assert torch.equal(run_graph(graph, x)[0], expected[0])


@pytest.mark.parametrize(
    "line, reason",
    [
        ('%q = graphopt.quantize(%x, %s, none) {dtype="int8"}', "one number"),
        ('%q = graphopt.quantize(%x, %s, none) {dtype="int8", axis=1}', "shape"),
        ('%q = graphopt.quantize(%x, %s, %z) {dtype="uint8", axis=0}', "zero point is i8"),
        ('%q = graphopt.dequantize(%x, %s, none) {dtype="int8", axis=0}', "not f32"),
        ('%q = graphopt.quantize(%x, %s, none) {dtype="int9", axis=0}', "int9"),
    ],
)
def test_wrong_parameters_are_refused_by_inference(line: str, reason: str) -> None:
    text = f"input %x: f32[4, 3]\ninput %s: f32[4]\ninput %z: i8[4]\n{line}\nreturn %q"
    with pytest.raises((TypeInferenceError, GraphOptError), match=reason):
        graphopt.parse(text)


def test_wrong_parameters_are_refused_by_the_kernels() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="needs an axis"):
        graphopt.quantize(x, torch.ones(4))
    with pytest.raises(ValueError, match=r"has shape \[4, 2\]"):
        graphopt.quantize(x, torch.ones(4), axis=1, block_size=2)
    with pytest.raises(ValueError, match="stored as"):
        graphopt.dequantize(torch.zeros(2, dtype=torch.uint8), torch.tensor(1.0), dtype="int4")
    with pytest.raises(GraphOptError, match="int9"):
        graphopt.quantize(x, torch.tensor(1.0), dtype="int9")


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([torch.int8, torch.uint8]),
    st.sampled_from([torch.int8, torch.uint8]),
    st.lists(st.integers(1, 5), min_size=0, max_size=2),
    st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 5)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_products_of_integers_are_exact(
    left: torch.dtype,
    right: torch.dtype,
    batch: list[int],
    sizes: tuple[int, int, int],
    zeros: bool,
    per_row: bool,
    seed: int,
) -> None:
    m, k, n = sizes
    generator = torch.Generator().manual_seed(seed)

    def draw(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        info = torch.iinfo(dtype)
        return torch.randint(info.min, info.max + 1, shape, generator=generator).to(dtype)

    a, b = draw(left, *batch, m, k), draw(right, k, n)
    za = draw(left, m) if zeros and per_row else draw(left) if zeros else None
    zb = draw(right, n) if zeros and per_row else draw(right) if zeros else None
    found = torch.ops.graphopt.matmul_integer(a, b, za, zb)
    wide_a = a.long() - (0 if za is None else za.long().reshape(-1, 1) if per_row else za.long())
    wide_b = b.long() - (0 if zb is None else zb.long())
    assert torch.equal(found.long(), wide_a @ wide_b)


@pytest.mark.parametrize("channels", [2, 600])
def test_convolutions_of_integers_are_exact(channels: int) -> None:
    """With 600 channels sums leave the range in which single precision is exact."""
    generator = torch.Generator().manual_seed(channels)
    x = torch.randint(200, 256, (2, channels, 5, 5), generator=generator).to(torch.uint8)
    w = torch.randint(100, 128, (3, channels, 3, 3), generator=generator).to(torch.int8)
    bias = torch.tensor([10**6, -5, 7], dtype=torch.int32)
    zero = torch.tensor(3, dtype=torch.uint8)
    found = torch.ops.graphopt.conv_integer(x, w, bias, zero, None, stride=[2, 1], padding=[1, 0, 1, 2])
    padded = torch.nn.functional.pad(x.long() - 3, (0, 2, 1, 1))
    columns = padded.unfold(2, 3, 2).unfold(3, 3, 1)
    expected = torch.einsum("nchwij,ocij->nohw", columns, w.long()) + bias.long().reshape(3, 1, 1)
    assert torch.equal(found.long(), expected)
