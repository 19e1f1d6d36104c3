"""Palettize: optimal codebooks, what is written for each kind of layer, exactness, size, training, and refusals."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphopt
from graphopt.analysis import run_graph
from graphopt.backends.onnx import emit_onnx
from graphopt.errors import EmissionError, GraphOptError, InputError, UnknownNameError
from graphopt.ir import DType
from graphopt.ops.quantization import find_format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.palettize import Palettize
from graphopt.passes.quantization.blocks import block_parameters
from graphopt.passes.quantization.codebooks import codebook, nearest, nearest_numbers, vector_codebook
from graphopt.passes.quantization.palettes import Grain, palette, signal_to_noise
from graphopt.passmanager import PassContext
from graphopt.testing import check_pass
from tests.zoo import MODELS
from tests.zoo.trained import trained_lenet

TEXT = """
input %x: f32[N, 5, 64]
parameter %w: f32[48, 64]
parameter %b: f32[48]
parameter %v: f32[48, 64]
%y = linear(%x, %w, %b)
%r = relu(%y)
%z = matmul(%r, %v)
return %z"""


def least(x: torch.Tensor, h: torch.Tensor, codes: int) -> float:
    """The least weighted squared error over all partitions of the sorted numbers into runs."""
    order = x.argsort()
    x, h = x[order], h[order]
    best = float("inf")
    for cuts in combinations(range(1, len(x)), min(codes, len(x)) - 1):
        total = 0.0
        for start, end in zip((0, *cuts), (*cuts, len(x))):
            mean = (x[start:end] * h[start:end]).sum() / h[start:end].sum()
            total += float((h[start:end] * (x[start:end] - mean).square()).sum())
        best = min(best, total)
    return best


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
def test_codebooks_of_numbers_are_optimal(count: int, codes: int, ties: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, count, generator=generator).double() ** 3
    x = (x * 2).round() if ties else x
    h = torch.rand(2, count, generator=generator).double() + 0.01
    found = codebook(x, h, codes)
    assert bool((found.diff() >= 0).all())
    taken = found.gather(1, nearest_numbers(x, found))
    for row in range(2):
        error = float((h[row] * (x[row] - taken[row]).square()).sum())
        assert error == pytest.approx(least(x[row], h[row], codes), rel=1e-9, abs=1e-12)


def test_of_many_numbers_bins_lose_next_to_nothing() -> None:
    """A Gaussian's best 16 levels have 20.22 dB (Max, 1960); vectors of two do better."""
    x = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    found = codebook(x, torch.ones_like(x), 16)
    assert signal_to_noise(x, found.gather(1, nearest_numbers(x, found))) == pytest.approx(20.22, abs=0.03)
    pairs = x.reshape(-1, 2)
    codes = vector_codebook(pairs, torch.ones(len(pairs)), 256)
    assert signal_to_noise(pairs, codes[nearest(pairs, codes)]) > 20.8


def test_far_outliers_do_not_take_the_others_codes() -> None:
    x = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 1e6
    found = codebook(x, torch.ones_like(x), 16)
    assert signal_to_noise(x[:, 1:], found.gather(1, nearest_numbers(x, found))[:, 1:]) > 19.5


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.integers(0, 4),
    st.sampled_from([0, 4]),
    st.booleans(),
    st.integers(0),
)
def test_palettes_are_no_worse_than_one_code_and_exact_where_they_can_be(
    bits: int, vector: int, group: int, block: int, scaled: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(6, 12, generator=generator)
    grain = Grain(bits, vector, group, block if scaled else 0, scaled)
    found = palette(matrix, None, grain).matrix()
    assert found.shape == matrix.shape and bool(found.isfinite().all())
    assert signal_to_noise(matrix, found) > 0
    values = torch.randn(2**bits, generator=generator)
    few = values[torch.randint(0, 2**bits, (6, 12), generator=generator)]
    assert torch.equal(palette(few, None, grain).matrix(), few)
    assert torch.equal(palette(torch.full((6, 12), 0.3), None, grain).matrix(), torch.full((6, 12), 0.3))


@pytest.mark.parametrize("vector", [1, 2])
def test_what_was_pruned_stays_zero(vector: int) -> None:
    matrix = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    matrix[:, ::4], matrix[:, 1::4] = 0, 0
    assert bool((palette(matrix, None, Grain(4, vector)).matrix()[matrix == 0] == 0).all())


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1.0, 1e6])
@pytest.mark.parametrize("grain", [Grain(4), Grain(4, scaled=False), Grain(4, 2, block_size=16, narrow=True)])
def test_weights_of_any_size_and_channels_of_zeros(size: float, grain: Grain) -> None:
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    matrix[5] = 0
    found = palette(matrix * size, None, grain).matrix()
    assert signal_to_noise(matrix * size, found) > 19
    if grain.scaled:
        assert bool((found[5] == 0).all())


def test_the_graph_reads_like_this() -> None:
    graph = graphopt.parse(TEXT)
    result = Palettize(bits=3, group_size=10).run(graph, PassContext())
    assert [node.name for node in graph] == [
        "graphopt.unpack",
        "aten.reshape",
        "graphopt.lookup",
        "aten.linear",
        "aten.relu",
        "graphopt.unpack",
        "aten.reshape",
        "graphopt.lookup",
        "aten.permute",
        "aten.matmul",
    ]
    stored = {name: str(value.type.dtype.value) for name, value in graph.constants.items()}
    assert stored["w_indices"] == "u8" and stored["w_codebook"] == "f16" and "w" not in stored
    assert graph.constants["w_indices"].shape == (48 * 64 * 3 // 8,)
    assert graph.constants["w_codebook"].shape == (5, 8, 1)
    assert "groups of 10 do not divide its 48 channels: the last has 8" in " ".join(result.notes)
    check_pass(Palettize(smallest=1), examples=10, operators=["linear"])


class Kinds(nn.Module):
    """An embedding, convolutions with groups, one of them transposed, a linear layer, products."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.conv = nn.Conv1d(32, 48, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose1d(48, 32, 2, stride=2, groups=2)
        self.linear = nn.Linear(32, 40)
        self.matrix = nn.Parameter(torch.randn(40, 64) / 6)
        self.tied = nn.Parameter(torch.randn(7, 64, 9) / 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.up(self.conv(self.table(tokens).transpose(1, 2)).relu()).transpose(1, 2)
        x = torch.matmul(self.linear(x), self.matrix)
        return torch.bmm(x.flatten(0, 1)[:7].unsqueeze(1), self.tied)


def kinds(**options: Any) -> tuple[nn.Module, torch.Tensor, Any]:
    torch.manual_seed(0)
    model, tokens = Kinds().eval(), torch.randint(0, 50, (3, 7))
    text = ", ".join(f"{name}={str(value).lower()}" for name, value in {"smallest": 64, **options}.items())
    made = graphopt.compile(
        model,
        (tokens,),
        target="onnxruntime",
        passes=f"default,palettize{{{text}}},fold-constants,dead-code",
        on_failure="raise",
    )
    return model, tokens, made


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bits": 2}, 4),
        ({"bits": 3}, 10),
        ({"bits": 5}, 22),
        ({"bits": 8}, 38),
        ({"bits": 4, "vector": 2}, 18),
        ({"bits": 4, "group_size": 7}, 16),
        ({"bits": 4, "block_size": 8, "scaled": True}, 17),
        ({"bits": 4, "scaled": False}, 15),
        ({"bits": 6, "embeddings": False}, 28),
    ],
)
def test_every_kind_of_layer_in_onnx_runtime(options: dict[str, Any], expected: float) -> None:
    model, tokens, made = kinds(**options)
    found, reference = made(tokens), model(tokens)
    torch.testing.assert_close(found, run_graph(made.graph, tokens)[0], rtol=1e-4, atol=1e-5)
    assert signal_to_noise(reference.detach(), found.detach()) > expected
    assert {n.op_type for n in made.to_onnx().graph.node} >= {"Gather", "Cast"}


def test_weights_that_were_packed_into_one_are_found() -> None:
    """For ONNX Runtime, the layers of queries, keys and values become one product, whose weight is no parameter."""
    entry = MODELS["transformer-encoder"]
    module, (args, kwargs) = entry.build(), entry.inputs(batch=2)
    passes = "default,palettize{smallest=256},dead-code"
    made = graphopt.compile(module, args, kwargs, target="onnxruntime", passes=passes, on_failure="raise")
    large = [name for name, v in made.graph.constants.items() if v.type.dtype is DType.F32 and len(v.shape) == 2]
    assert not [name for name in large if made.graph.constants[name].constant.tensor.numel() >= 256]


def test_a_tied_table_is_stored_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(64, 32)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.table(tokens), self.table.weight)

    torch.manual_seed(0)
    model, tokens = Tied().eval(), torch.randint(0, 64, (2, 5))
    graph = graphopt.trace(model, (tokens,))
    Palettize(bits=6).run(graph, PassContext())
    assert sorted(graph.constants) == ["table.weight_codebook", "table.weight_indices", "table.weight_scale"]
    assert signal_to_noise(model(tokens).detach(), run_graph(graph, tokens)[0]) > 25


def linear_noise(weight: torch.Tensor, format_: str, block: int) -> tuple[float, float]:
    """Bits a number and signal-to-noise ratio of the best steps of equal size, scales and zero points counted."""
    kind, matrix = find_format(format_), weight.t().contiguous()
    scales, zeros = block_parameters(matrix, kind, block, True)
    points, axis = None if zeros is None else zeros.to(kind.storage), 0 if block else 1
    found = dequantized(
        quantized(matrix, scales.half().float(), points, kind, axis, block), scales, points, axis, block
    )
    bits = 4 + (16 + (0 if points is None else 4)) / (block or weight.shape[1])
    return bits, signal_to_noise(matrix, found)


@pytest.mark.parametrize("block", [0, 64])
def test_less_noise_than_equal_steps_at_the_same_size(block: int) -> None:
    """Weights with the heavy tails of trained ones: 1 dB at least, whatever is counted."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator) * torch.randn(256, 256, generator=generator).abs().sqrt()
    found = palette(weight, None, Grain(4, 2, block_size=block))
    bits = 8 * found.bytes(False) / weight.numel()
    for format_ in ("int4", "uint4"):
        size, noise = linear_noise(weight, format_, block)
        assert bits - size < 0.13  # of which the codebook has 0.125: the matrix is small
        assert signal_to_noise(weight, found.matrix()) > noise + 1


def test_a_trained_network_with_data() -> None:
    trained = trained_lenet()
    images, data = trained.data.images[:200], trained.data.train_images[:64]
    noise = {}
    for weighted in (True, False):
        made = graphopt.compile(
            trained.module,
            (images[:4],),
            target="onnxruntime",
            dynamic_shapes="batch",
            passes=f"default,palettize{{bits=3, weighted={str(weighted).lower()}}},dead-code",
            calibration=data.split(16),
            on_failure="raise",
        )
        with torch.no_grad():
            noise[weighted] = signal_to_noise(trained.module(images), made(images))
            hits = (made(images).argmax(1) == trained.module(images).argmax(1)).double().mean()
        assert hits > 0.97
    assert noise[True] > noise[False] + 0.3


def test_codebooks_train() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16)).eval(), torch.randn(64, 16)
    made = graphopt.compile(model, (x,), target="fx", passes="palettize{bits=2}", on_failure="raise")
    names = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert {"0.weight_codebook", "0.weight_scale", "2.weight_codebook"} <= names
    wanted = model(x).detach()
    before = float((made(x) - wanted).square().mean().detach())
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (made(x) - wanted).square().mean().backward()
        optimizer.step()
    assert float((made(x) - wanted).square().mean().detach()) < 0.7 * before


def test_saved_and_from_an_onnx_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv1d(8, 32, 3), nn.ReLU(), nn.Conv1d(32, 16, 3)).eval(), torch.randn(2, 8, 20)
    file = graphopt.compile(model, (x,), target="onnx").to_onnx()
    made = graphopt.compile(file, (x,), target="onnxruntime", passes="default,palettize{bits=6, smallest=64}")
    assert signal_to_noise(model(x).detach(), made(x)) > 25
    made.save(tmp_path / "model.graphopt")
    assert torch.equal(graphopt.load(tmp_path / "model.graphopt")(x), made(x))
    assert len(made.to_onnx().SerializeToString()) < len(file.SerializeToString())
    again = graphopt.compile(made.to_onnx(), (x,), target="fx")
    torch.testing.assert_close(again(x), made(x))


def test_the_file_is_as_small_as_promised() -> None:
    model, x = nn.Linear(512, 512).eval(), torch.randn(2, 512)
    sizes = {}
    for bits in (1, 2, 3, 4, 8):
        made = graphopt.compile(model, (x,), target="onnx", passes=f"palettize{{bits={bits}}}", on_failure="raise")
        sizes[bits] = made.to_onnx().ByteSize()
        assert sizes[bits] < 512 * 512 * bits / 8 + 10000
    assert sizes[1] < sizes[2] < sizes[3] < sizes[4] < sizes[8]


def test_scales_of_blocks_have_eight_bits_and_need_their_opset() -> None:
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    matrix[0], matrix[1, :8] = 0, 1e-4
    found = palette(matrix, None, Grain(4, block_size=8, narrow=True))
    assert found.scale is not None and found.scale.dtype is torch.float8_e4m3fn
    assert bool((found.matrix()[0] == 0).all()) and signal_to_noise(matrix, found.matrix()) > 20
    graph = graphopt.parse(TEXT)
    Palettize(block_size=16).run(graph, PassContext())
    assert emit_onnx(graph).opset_import[0].version >= 19
    with pytest.raises(EmissionError, match="need opset 19"):
        emit_onnx(graph, opset=18)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bits": 0}, "bits is 0; codebooks have indices of 1 to 8 bits"),
        ({"bits": 9}, "bits is 9"),
        ({"bits": 4, "vector": 3}, "with 4 bits a number it is 1 to 2"),
        ({"vector": 0}, "vector is 0"),
        ({"group_size": -1}, "group_size and block_size"),
        ({"scaled": False, "block_size": 32}, "without effect"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(GraphOptError, match=reason):
        Palettize(**options)


def test_bad_weights_and_missing_data() -> None:
    model = nn.Linear(64, 64).eval()
    with torch.no_grad():
        model.weight[3, 4] = torch.nan
    with pytest.raises(GraphOptError, match="weight weight holds a NaN"):
        Palettize().run(graphopt.trace(model, (torch.randn(2, 64),)), PassContext())
    graph = graphopt.parse(TEXT)
    with pytest.raises(InputError, match="needs data to weight errors"):
        Palettize(weighted=True).run(graph.clone(), PassContext())
    with pytest.raises(UnknownNameError, match="nothing"):
        Palettize(ignore=("nothing",)).run(graph.clone(), PassContext())
    kept = Palettize(ignore=("v",)).run(graph.clone(), PassContext()).details
    assert [figures.name for figures in kept.weights] == ["w"] and "ignored as 'v'" in kept.left[0]
    large = Palettize(bits=8, group_size=1).run(graph.clone(), PassContext()).details
    assert "codebooks it would take" in large.left[0] and not large.weights
