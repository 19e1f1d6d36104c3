"""Sparse = dense: layers with sparse weights against PyTorch's dense ones in double precision."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from graphopt.analysis import Interpreter
from graphopt.errors import TypeInferenceError
from graphopt.ir import DType, Graph, TensorType, symbol
from graphopt.ops.sparse import HEIGHTS, block_counts, compress, dense, sparse_linear
from graphopt.ops.sparse.blocks import as_rows
from graphopt.ops.sparse.library import ACTIVATIONS, activated
from graphopt.rewrite import Rewriter

KINDS = ("random", "zero", "full", "rows", "columns", "blocks", "one")
CONVS = (F.conv1d, F.conv2d, F.conv3d)


def weight_of(kind: str, rows: int, columns: int, height: int, seed: int) -> Tensor:
    """A matrix with a pattern of zeros."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(rows, columns, generator=generator)

    def shown(*shape: int, share: float = 0.3) -> Tensor:
        return torch.rand(shape, generator=generator) < share

    masks = {
        "random": shown(rows, columns, share=0.15),
        "zero": torch.zeros(rows, columns),
        "full": torch.ones(rows, columns),
        "rows": shown(rows, 1).expand(rows, columns),
        "columns": shown(1, columns).expand(rows, columns),
        "blocks": shown(rows // height, columns).repeat_interleave(height, 0),
        "one": torch.arange(rows * columns).reshape(rows, columns) == seed % (rows * columns),
    }
    return full * masks[kind]


def close(found: Tensor, expected: Tensor, terms: int) -> None:
    """Within what another order of so many sums rounds to."""
    assert found.shape == expected.shape
    if found.numel():
        allowed = 4 * torch.finfo(found.dtype).eps * max(terms, 1) ** 0.5 * max(1.0, float(expected.abs().max()))
        assert float((found.double() - expected.double()).abs().max()) <= allowed + (1e-6 if terms else 0.0)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    height=st.sampled_from(HEIGHTS),
    blocks=st.integers(1, 12),
    columns=st.integers(1, 300),
    batch=st.one_of(st.sampled_from((1, 2, 15, 16, 17, 128, 512)), st.integers(1, 512)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    biased=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.float32, torch.float64, torch.float16)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_linear(
    kind: str,
    height: int,
    blocks: int,
    columns: int,
    batch: int,
    activation: str,
    biased: bool,
    dtype: torch.dtype,
    threads: int,
    seed: int,
) -> None:
    w = weight_of(kind, height * blocks, columns, height, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(batch, columns, generator=generator).to(dtype)
    bias = torch.randn(height * blocks, generator=generator).to(dtype) if biased else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = sparse_linear(x, *compress(w, height), bias, columns, activation)
    finally:
        torch.set_num_threads(before)
    expected = activated(F.linear(x.double(), w.double(), None if bias is None else bias.double()), activation)
    assert found.dtype is dtype
    close(found, expected, columns)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS), height=st.sampled_from(HEIGHTS), seed=st.integers(0, 1000))
def test_convolution(data: Any, kind: str, height: int, seed: int) -> None:
    n = data.draw(st.integers(1, 3))

    def sizes(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(n)]

    kernel, stride, padding, dilation = sizes(1, 3), sizes(1, 3), sizes(0, 2), sizes(1, 2)
    if data.draw(st.booleans()):
        kernel, stride, padding = [1] * n, [1] * n, [0] * n
    channels, rows = data.draw(st.integers(1, 5)), height * data.draw(st.integers(1, 4))
    image = [d * (k - 1) + 1 + more for k, d, more in zip(kernel, dilation, sizes(0, 9))]
    lead = data.draw(st.sampled_from(((), (1,), (3,))))
    terms = channels * torch.Size(kernel).numel()
    w = weight_of(kind, rows, terms, height, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(*lead, channels, *image, generator=generator)
    bias = torch.randn(rows, generator=generator) if data.draw(st.booleans()) else None
    activation = data.draw(st.sampled_from(sorted(ACTIVATIONS)))
    options = (kernel, stride, padding, dilation, activation)
    found = torch.ops.graphopt.sparse_conv(x, *compress(w, height), bias, *options)
    weight = w.double().reshape(rows, channels, *kernel)
    doubled = None if bias is None else bias.double()
    expected = activated(CONVS[n - 1](x.double(), weight, doubled, stride, padding, dilation), activation)
    close(found, expected, terms)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (0, 5), (4, 0, 5)])
def test_any_leading_dims(shape: tuple[int, ...]) -> None:
    w = weight_of("random", 6, 5, 1, 3)
    x = torch.randn(shape)
    torch.testing.assert_close(sparse_linear(x, *compress(w), None, 5), F.linear(x, w))


def test_views_are_read_as_they_are() -> None:
    w = weight_of("random", 16, 24, 1, 0)
    x = torch.randn(24, 40).t()
    torch.testing.assert_close(sparse_linear(x, *compress(w), None, 24), F.linear(x, w))
    image = torch.randn(2, 9, 9, 6).permute(0, 3, 1, 2)
    kernel = weight_of("random", 8, 54, 1, 1)
    found = torch.ops.graphopt.sparse_conv(image, *compress(kernel), None, [3, 3], [1, 1], [1, 1], [1, 1])
    torch.testing.assert_close(found, F.conv2d(image, kernel.reshape(8, 6, 3, 3), padding=1))


@pytest.mark.parametrize("height", HEIGHTS)
def test_blocks(height: int) -> None:
    w = weight_of("blocks", 16, 30, height, 2)
    w[3] = 0
    parts = compress(w, height)
    assert torch.equal(dense(*parts, 30), w)
    assert parts.values.shape == (block_counts(w)[height], height)
    assert torch.equal(dense(*as_rows(*parts), 30), w)


def test_rows_that_blocks_do_not_divide() -> None:
    with pytest.raises(ValueError, match="6 rows are no multiple of a block's 4"):
        compress(torch.ones(6, 2), 4)
    assert list(block_counts(torch.ones(6, 2))) == [1, 2]


def test_weights_that_are_written_to() -> None:
    """What was prepared for one state of a tensor is not used for the next."""
    w = weight_of("random", 8, 12, 1, 0)
    x = torch.randn(3, 12)
    crow, columns, values = compress(w)
    sparse_linear(x, crow, columns, values, None, 12)
    values.mul_(3)
    torch.testing.assert_close(sparse_linear(x, crow, columns, values, None, 12), F.linear(x, 3 * w))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_derivatives(activation: str) -> None:
    w = weight_of("random", 8, 12, 1, 0)
    crow, columns, values = compress(w)
    leaves = [torch.randn(5, 12), values, torch.randn(8)]
    for leaf in leaves:
        leaf.requires_grad_()
    mark = w != 0
    full = w.clone().requires_grad_()
    again = [leaves[0].detach().requires_grad_(), full, leaves[2].detach().requires_grad_()]
    sparse_linear(leaves[0], crow, columns, values, leaves[2], 12, activation).square().sum().backward()
    activated(F.linear(again[0], full, again[2]), activation).square().sum().backward()
    expected = [again[0].grad, full.grad[mark].unsqueeze(1), again[2].grad]  # type: ignore[index]
    for leaf, wanted in zip(leaves, expected):
        torch.testing.assert_close(leaf.grad, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("biased", [False, True])
def test_registered_as_pytorch_wants_it(biased: bool) -> None:
    crow, columns, values = compress(weight_of("random", 4, 27, 1, 0))
    bias = torch.randn(4, requires_grad=True) if biased else None
    values.requires_grad_()
    x = torch.randn(2, 27, requires_grad=True)
    torch.library.opcheck(torch.ops.graphopt.sparse_linear.default, (x, crow, columns, values, bias, 27, "gelu"))
    image = torch.randn(1, 3, 7, 7, requires_grad=True)
    options = ([3, 3], [2, 1], [1, 1], [1, 1], "relu")
    torch.library.opcheck(torch.ops.graphopt.sparse_conv.default, (image, crow, columns, values, bias, *options))


def graph_of(name: str, x: TensorType, w: Tensor, *options: Any) -> Graph:
    """One operator with a stored weight."""
    graph = Graph("one")
    rewriter = Rewriter(graph)
    parts = [rewriter.constant(tensor, "w") for tensor in compress(w)]
    graph.set_outputs([rewriter.create(name, graph.add_input("x", x), *parts, None, *options).result])
    return graph


@pytest.mark.parametrize("size, stride, padding, dilation", list(itertools.product((1, 3), (1, 2), (0, 1), (1, 2))))
def test_types(size: int, stride: int, padding: int, dilation: int) -> None:
    """Inferred for any batch: what the operator gives."""
    w = weight_of("random", 6, 4 * size * size, 1, 0)
    options = tuple((number, number) for number in (size, stride, padding, dilation))
    graph = graph_of("graphopt.sparse_conv", TensorType(DType.F32, (symbol("n"), 4, 9, 11)), w, *options)
    found = Interpreter(graph).run(torch.randn(2, 4, 9, 11))[0]
    type_ = graph.outputs[0].type
    assert isinstance(type_, TensorType)
    assert type_.shape == (symbol("n"), *found.shape[1:])


def test_types_of_linear_layers() -> None:
    graph = graph_of("graphopt.sparse_linear", TensorType(DType.F32, (symbol("n"), 4)), weight_of("one", 6, 4, 1, 0), 4)
    assert graph.outputs[0].type == TensorType(DType.F32, (symbol("n"), 6))


@pytest.mark.parametrize(
    "x, features, message",
    [
        (TensorType(DType.F32, (2, 5)), 4, "differ in their inner size"),
        (TensorType(DType.F64, (2, 4)), 4, "the input is f64, the values are f32"),
    ],
)
def test_calls_that_do_not_fit(x: TensorType, features: int, message: str) -> None:
    with pytest.raises(TypeInferenceError, match=message):
        graph_of("graphopt.sparse_linear", x, weight_of("one", 6, 4, 1, 0), features)


def test_activation_that_is_not_fused() -> None:
    with pytest.raises(ValueError, match="'tanh' is no activation that is fused; there are none, relu, silu, gelu"):
        sparse_linear(torch.ones(1, 2), *compress(torch.eye(2)), None, 2, "tanh")


def test_without_a_generator_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's CSR kernel gives the same."""
    monkeypatch.setattr("graphopt.ops.sparse.linear.unavailable", lambda: "llvmlite is not installed")
    w = weight_of("blocks", 16, 40, 4, 0)
    x, bias = torch.randn(3, 40), torch.randn(16)
    found = sparse_linear(x, *compress(w, 4), bias, 40, "relu")
    torch.testing.assert_close(found, F.relu(F.linear(x, w, bias)))
    image = torch.randn(1, 10, 6, 6)
    found = torch.ops.graphopt.sparse_conv(image, *compress(w, 4), None, [2, 2], [1, 1], [0, 0], [1, 1])
    torch.testing.assert_close(found, F.conv2d(image, w.reshape(16, 10, 2, 2)))
