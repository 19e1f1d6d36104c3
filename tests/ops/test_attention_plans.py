"""Attention by plans, windows and segments, against PyTorch's whole attention with the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from graphopt.errors import TypeInferenceError
from graphopt.ir import Graph, TensorType, from_torch
from graphopt.ops.attention import Call, Segment, decode, encode, plan_mask, plan_window
from graphopt.ops.attention.plan import check_plan
from graphopt.rewrite import Rewriter
from graphopt.targets import get_engine

OPS = torch.ops.graphopt
KINDS = ("band", "blocks", "global", "scattered", "empty", "full", "numbers", "lowest")


def mask_of(kind: str, queries: int, keys: int, heads: int, seed: int) -> Tensor:
    """A mask [heads, queries, keys] of bools, or of numbers with −∞ or the lowest number where keys are hidden."""
    generator = torch.Generator().manual_seed(seed)
    width = 1 + seed % 40
    row, column = torch.arange(queries).unsqueeze(1), torch.arange(keys).unsqueeze(0)
    near = (row - column).abs() <= width
    random = torch.rand(heads, queries, keys, generator=generator)
    if kind == "band":
        return near.expand(heads, -1, -1)
    if kind == "blocks":
        return random[:, row // width, column // width] < 0.3
    if kind == "global":
        return (near | (row < 3) | (column < 2)).expand(heads, -1, -1)
    if kind == "empty":
        return (near & (row % 3 != 0)).expand(heads, -1, -1)
    if kind == "full":
        return torch.ones(heads, queries, keys, dtype=torch.bool)
    if kind == "scattered":
        return random < 0.05
    hidden = float("-inf") if kind == "numbers" else torch.finfo(torch.float32).min
    return random.masked_fill(~near, hidden)


def operands(queries: int, keys: int, heads: int, groups: int = 1, batch: int = 2, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = ((heads, queries, width), (heads // groups, keys, width), (heads // groups, keys, width + 3))
    return [torch.randn(batch, *shape, generator=generator) for shape in shapes]


def whole(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1])


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    queries=st.integers(1, 300),
    keys=st.integers(1, 300),
    rows=st.sampled_from((1, 7, 16, 64)),
    heads=st.sampled_from(((1, 1), (2, 1), (4, 2))),
    each=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_plan_computes_what_the_mask_leaves(
    kind: str, queries: int, keys: int, rows: int, heads: tuple[int, int], each: bool, seed: int
) -> None:
    q, k, v = operands(queries, keys, *heads)
    mask = mask_of(kind, queries, keys, heads[0] if each else 1, seed)
    planned = plan_mask(mask, rows)
    check_plan(planned.calls, queries, keys)
    found = OPS.block_sparse_attention(q, k, v, planned.bias, list(encode(planned.calls)))
    torch.testing.assert_close(found, whole(q, k, v, mask), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 300),
    left=st.integers(0, 90),
    right=st.integers(0, 90),
    tokens=st.integers(0, 20),
    shape=st.sampled_from((None, "keys", "all")),
)
def test_window_is_attention_with_its_mask(length: int, left: int, right: int, tokens: int, shape: str | None) -> None:
    q, k, v = operands(length, length, 4, 2)
    place = torch.arange(length)
    row, column = place.unsqueeze(1), place.unsqueeze(0)
    near = ((column >= row - left) & (column <= row + right)) | (row < tokens) | (column < tokens)
    given_ = None
    if shape is not None:
        generator = torch.Generator().manual_seed(length)
        given_ = torch.rand((2, 1, 1 if shape == "keys" else length, length), generator=generator) > 0.3
        near = near & given_
    found = OPS.window_attention(q, k, v, given_, left, right, tokens)
    torch.testing.assert_close(found, whole(q, k, v, near), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 5),
    length=st.integers(1, 40),
    share=st.sampled_from((0.0, 0.3, 0.9, 1.0)),
    causal=st.booleans(),
    number=st.booleans(),
)
def test_segments_are_the_live_rows_of_a_padded_batch(
    batch: int, length: int, share: float, causal: bool, number: bool
) -> None:
    q, k, v = operands(length, length, 4, 2, batch)
    live = torch.rand(batch, length, generator=torch.Generator().manual_seed(length)) < share
    shown = live[:, None, None, :]
    if causal:
        shown = shown & torch.ones(length, length, dtype=torch.bool).tril()
    expected = whole(q, k, v, shown).transpose(1, 2)[live]
    rows = [x.transpose(1, 2)[live] for x in (q, k, v)]
    found = OPS.segment_attention(*rows, live.long() * 3 if number else live, causal)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_band_is_three_calls() -> None:
    calls = plan_mask(mask_of("band", 512, 512, 1, 20), 64).calls
    assert [(call.start, call.blocks, call.segments) for call in calls] == [
        (0, 1, (Segment(0, 85, 0),)),
        (64, 6, (Segment(43, 106, 64),)),
        (448, 1, (Segment(427, 85, 0),)),
    ]


def test_window_and_its_mask_have_one_plan() -> None:
    planned = plan_window(300, 300, 20, 11, 5, 32)
    row, column = torch.arange(300).unsqueeze(1), torch.arange(300).unsqueeze(0)
    shown = ((column >= row - 20) & (column <= row + 11)) | (row < 5) | (column < 5)
    from_mask = plan_mask(shown.unsqueeze(0), 32)
    assert planned.calls == from_mask.calls
    assert torch.equal(planned.bias, from_mask.bias)


def test_what_is_computed_grows_with_the_length() -> None:
    """A window costs what its length does, the whole the square of it."""
    pairs = [plan_window(length, length, 32, 32).pairs for length in (512, 1024, 2048)]
    assert pairs[2] - pairs[1] == 2 * (pairs[1] - pairs[0])


@pytest.mark.parametrize("numbers", [(0, 4), (0, 0, 1, -1, 0), (0, 4, 1, -1, 2, 0, 4, 0)])
def test_numbers_that_are_no_plan(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="starts no call"):
        decode(numbers)


@pytest.mark.parametrize(
    "calls, reason",
    [
        ((Call(1, 4, 1, -1, (Segment(0, 4, 0),)),), "starts at query 1"),
        ((Call(0, 4, 1, -1, (Segment(0, 9, 0),)),), "reads keys 0 to 9 of 4"),
        ((Call(0, 2, 1, -1, (Segment(0, 4, 0),)),), "computes 2 queries of 4"),
    ],
)
def test_plan_that_does_not_fit(calls: tuple[Call, ...], reason: str) -> None:
    q, k, v = operands(4, 4, 1)
    with pytest.raises(ValueError, match=reason):
        OPS.block_sparse_attention(q, k, v, None, list(encode(calls)))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_mask_that_is_no_mask(number: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        plan_mask(torch.full((1, 4, 4), number))
    with pytest.raises(ValueError, match=r"\[heads, queries, keys\]"):
        plan_mask(torch.zeros(4, 4))


def test_rows_that_the_mask_does_not_show() -> None:
    with pytest.raises(ValueError, match="shows 2 positions, and there are 3 rows"):
        OPS.segment_attention(*[torch.zeros(3, 1, 4)] * 3, torch.tensor([[True, True, False]]))


def test_negative_window() -> None:
    graph = Graph("window")
    values = [graph.add_input(name, TensorType(from_torch(torch.float32), (1, 2, 8, 4))) for name in "qkv"]
    with pytest.raises(TypeInferenceError, match="no negative size"):
        Rewriter(graph).create("graphopt.window_attention", *values, None, -1, 2)


def test_derivatives() -> None:
    q, k, v = (x.requires_grad_() for x in operands(40, 40, 4, 2))
    mask = mask_of("global", 40, 40, 1, 5)
    planned = plan_mask(mask, 16)
    expected = torch.autograd.grad(whole(q, k, v, mask).square().sum(), (q, k, v))
    y = OPS.block_sparse_attention(q, k, v, planned.bias, list(encode(planned.calls)))
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), (q, k, v)), expected, rtol=1e-4, atol=1e-5)
    y = OPS.window_attention(q, k, v, None, 6, 6)
    near = (torch.arange(40)[:, None] - torch.arange(40)).abs() <= 6
    expected = torch.autograd.grad(whole(q, k, v, near).square().sum(), (q, k, v))
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), (q, k, v)), expected, rtol=1e-4, atol=1e-5)


def test_operators_are_registered_as_pytorch_wants_them() -> None:
    q, k, v = operands(20, 20, 2)
    planned = plan_mask(mask_of("band", 20, 20, 1, 3), 8)
    q.requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        OPS.block_sparse_attention.default, (q, k, v, planned.bias, list(encode(planned.calls))), test_utils=checks
    )
    torch.library.opcheck(OPS.window_attention.default, (q, k, v, None, 3, 3), test_utils=checks)
    rows = [x.detach()[0].transpose(0, 1).contiguous() for x in (q, k, v)]
    live = torch.ones(1, 20, dtype=torch.bool)
    torch.library.opcheck(OPS.segment_attention.default, (rows[0].requires_grad_(), *rows[1:], live), test_utils=checks)


def in_onnx_runtime(name: str, tensors: list[Tensor | None], *attributes: object) -> None:
    """Hold an operator's form in ONNX to its kernel; what is no query, key or value is stored."""
    graph = Graph("attention")
    rewriter = Rewriter(graph)
    values = [
        None
        if x is None
        else graph.add_input(f"x{i}", TensorType(from_torch(x.dtype), tuple(x.shape)))
        if i < 3
        else rewriter.constant(x, f"x{i}")
        for i, x in enumerate(tensors)
    ]
    graph.set_outputs([rewriter.create(f"graphopt.{name}", *values, *attributes).result])
    engine = get_engine("onnxruntime")
    assert engine.unsupported(graph) is None
    (found,) = engine.load(graph).run(tensors[:3])
    given_ = [list(a) if isinstance(a, tuple) else a for a in attributes]
    torch.testing.assert_close(found, getattr(OPS, name)(*tensors, *given_), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_plans_in_onnx_runtime(kind: str) -> None:
    q, k, v = operands(70, 61, 4, 2)
    for heads in (1, 4):
        planned = plan_mask(mask_of(kind, 70, 61, heads, 9), 16)
        in_onnx_runtime("block_sparse_attention", [q, k, v, planned.bias], encode(planned.calls))


@pytest.mark.parametrize("shape", [None, (2, 1, 1, 50), (50, 50)])
def test_windows_in_onnx_runtime(shape: tuple[int, ...] | None) -> None:
    mask = None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.3
    in_onnx_runtime("window_attention", [*operands(50, 50, 4, 2), mask], 7, 4, 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_segments_in_onnx_runtime(causal: bool, share: float) -> None:
    live = torch.rand(3, 9, generator=torch.Generator().manual_seed(1)) < share
    rows = [x.transpose(1, 2)[live] for x in operands(9, 9, 4, 2, batch=3)]
    in_onnx_runtime("segment_attention", [*rows, live], causal)
