"""Every entry of the lowering table against the interpreter, in ONNX Runtime with its optimizations off."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.backends.onnx.registry import lowered_ops
from tests.backends.onnx.cases import SIZES, case_inputs, make_case
from tests.backends.onnx.oracle import assert_matches, checked, run_session, session

TABLES = sorted((Path(__file__).parent / "tables").glob("*.txt"))

IN_TEST_SPECIAL = [
    "aten.randperm",
    "aten.complex",
    "aten.view_as_complex",
    "aten.view_as_real",
    "aten.fft_fft",
    "aten.fft_ifft",
    "aten.fft_rfft",
    "aten.fft_irfft",
    "aten.embedding_bag",
    "aten._embedding_bag",
    "aten._embedding_bag_forward_only",
    "aten.rand",
    "aten.rand_like",
    "aten.randn",
    "aten.randn_like",
    "aten.bernoulli",
    "aten.bernoulli.p",
    "aten.randint",
    "aten.randint.low",
    "aten.randint_like",
    "aten.randint_like.low_dtype",
    "higher_order.cond",
    "higher_order.while_loop",
    "aten.item",
    "aten._local_scalar_dense",
    "aten.sym_size.int",
    "aten._assert_async",
    "aten._assert_async.msg",
    "aten._assert_tensor_metadata",
    "transformers.grouped_mm_fallback",
    "aten._grouped_mm",
    "aten.empty.memory_format",
    "aten.empty_like",
    "aten.empty_permuted",
    "aten.empty_strided",
    "aten.new_empty",
    "aten.new_empty_strided",
]
"""Operators whose lowering has a test function of its own in test_special.py."""
IN_TEST_QUANTIZATION = [
    "graphopt.quantize",
    "graphopt.dequantize",
    "graphopt.fake_quantize",
    "graphopt.requantize",
    "graphopt.dynamic_quantize",
    "graphopt.matmul_integer",
    "graphopt.conv_integer",
]
IN_TEST_CODEBOOKS = ["graphopt.lookup", "graphopt.unpack"]
WITH_THEIR_OPERATORS = [
    "graphopt.block_sparse_attention",
    "graphopt.segment_attention",
    "graphopt.window_attention",
    "graphopt.sparse_conv",
    "graphopt.sparse_linear",
]
"""Held to ONNX Runtime where the operators are tested: tests/ops and tests/passes."""


def lines() -> list[str]:
    written = [line.strip() for table in TABLES for line in table.read_text().splitlines()]
    return [line for line in written if line and not line.startswith("#")]


@pytest.mark.parametrize("line", lines())
def test_lowering(line: str) -> None:
    case = make_case(line)
    loaded = session(checked(case.graph))
    sizes = SIZES if case.graph.symbols() else SIZES[:1]
    for seed, binding in enumerate(sizes):
        inputs = case_inputs(case, binding, 10 * seed)
        assert_matches(case.graph, inputs, run_session(loaded, inputs))


def test_every_lowering_has_a_case() -> None:
    covered = {make_case(line).op for line in lines()} | {
        *IN_TEST_SPECIAL,
        *IN_TEST_QUANTIZATION,
        *IN_TEST_CODEBOOKS,
        *WITH_THEIR_OPERATORS,
    }
    assert not [name for name in lowered_ops() if name not in covered]
