"""Indices into codebooks: packing, what they stand for, derivatives, types, and the same numbers in ONNX Runtime."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.backends.onnx import emit_onnx
from graphopt.errors import GraphOptError
from graphopt.ops.quantization import lookup, packed_codes
from graphopt.ops.quantization.codebooks import planes, unpack
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passmanager import PassContext
from tests.backends.onnx.oracle import run_session, session


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 2**31))
def test_packing_is_dense_and_lossless(bits: int, size: int, seed: int) -> None:
    indices = torch.randint(0, 1 << bits, (2, size), generator=torch.Generator().manual_seed(seed))
    packed = packed_codes(indices, bits)
    assert torch.equal(unpack(packed, bits, size).long(), indices)
    assert size * bits <= 8 * packed.shape[1] < size * bits + 8 * len(list(planes(bits, size)))


def by_loop(indices: torch.Tensor, codebook: torch.Tensor, scale: torch.Tensor | None, group: int) -> torch.Tensor:
    rows, columns, size = *indices.shape, codebook.shape[2]
    found = torch.empty(rows, columns * size, dtype=codebook.dtype)
    for r in range(rows):
        for c in range(columns * size):
            code = codebook[r // group if group else 0, indices[r, c // size], c % size]
            block = 0 if scale is None else c // (columns * size // scale.shape[1])
            found[r, c] = code if scale is None else code * scale[r, block]
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2**31)
)
def test_lookup_is_the_definition(rows: int, columns: int, size: int, group: int, blocks: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = columns * max(blocks, 1)
    codebook = torch.randn(-(-rows // group) if group else 1, 4, size, generator=generator)
    indices = torch.randint(0, 4, (rows, columns), generator=generator)
    scale = torch.rand(rows, blocks, generator=generator) if blocks else None
    assert torch.equal(lookup(indices, codebook, scale, group), by_loop(indices, codebook, scale, group))


def test_derivatives_by_codebook_and_scale() -> None:
    torch.manual_seed(0)
    indices = torch.randint(0, 4, (5, 6))
    codebook = torch.randn(3, 4, 2, dtype=torch.double, requires_grad=True)
    scale = torch.rand(5, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c, s: lookup(indices, c, s, 2), (codebook, scale))
    assert torch.autograd.gradcheck(lambda c: lookup(indices, c, None, 2), (codebook,))


TEXT = """
input %p: u8[N, {bytes}]
input %c: f16[1, {codes}, 1]
input %s: f32[N, 2]
%i = graphopt.unpack(%p) {{bits={bits}, size=6}}
%y = graphopt.lookup(%i, %c, %s) {{output_dtype=f32}}
return %y"""


@pytest.mark.parametrize("bits", range(1, 9))
def test_rows_that_are_read_as_the_model_runs(bits: int) -> None:
    """Opsets from 13 on; the interpreter, an exported program and ONNX Runtime agree."""
    generator = torch.Generator().manual_seed(bits)
    indices = torch.randint(0, 1 << bits, (3, 6), generator=generator)
    codebook = torch.randn(1, 1 << bits, 1, generator=generator).half()
    scale = torch.rand(3, 2, generator=generator)
    packed = packed_codes(indices, bits)
    graph = graphopt.parse(TEXT.format(bits=bits, codes=1 << bits, bytes=packed.shape[1]))
    expected = lookup(indices, codebook, scale, 0, torch.float32)
    (found,) = run_graph(graph, packed, codebook, scale)
    assert torch.equal(found, expected)
    for opset in (13, 21):
        model = emit_onnx(graph, opset=opset)
        (array,) = run_session(session(model), [packed, codebook, scale])
        assert torch.equal(torch.as_tensor(array), expected)


def test_pytorch_exports_it() -> None:
    class Reads(torch.nn.Module):
        def forward(self, packed: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            return torch.ops.graphopt.lookup(torch.ops.graphopt.unpack(packed, 3, 8), codes)

    packed, codes = packed_codes(torch.arange(16).reshape(2, 8) % 8, 3), torch.randn(1, 8, 1)
    exported = torch.export.export(Reads(), (packed, codes)).module()
    assert torch.equal(exported(packed, codes), Reads()(packed, codes))
    made = graphopt.compile(Reads(), (packed, codes), target="fx")
    assert torch.equal(made(packed, codes), Reads()(packed, codes))


def test_stored_indices_are_not_folded_unless_asked() -> None:
    graph = graphopt.parse("""
    constant %p: u8[3] = (249, 8, 0)
    constant %c: f32[1, 8, 1] = (((0.0,), (1.0,), (2.0,), (3.0,), (4.0,), (5.0,), (6.0,), (7.0,)),)
    %i = graphopt.unpack(%p) {bits=3, size=8}
    %y = graphopt.lookup(%i, %c)
    return %y""")
    assert not FoldConstants().run(graph.clone(), PassContext()).changed
    decoded = FoldConstants(decode=True)(graph)
    assert not len(decoded) and run_graph(decoded)[0].tolist() == run_graph(graph)[0].tolist()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("%y = graphopt.unpack(%p) {bits=9, size=8}", "1 to 8 bits"),
        ("%y = graphopt.unpack(%p) {bits=4, size=8}", "take 4 bytes, there are 3"),
        ("%y = graphopt.lookup(%c, %c)", "indices are integers"),
        ("%y = graphopt.lookup(%p, %s)", "a codebook has the shape"),
        ("%y = graphopt.lookup(%p, %c) {group_size=1}", "do not read 1 codebooks"),
        ("%y = graphopt.lookup(%p, %c, %s)", "are none of blocks of the 3 columns"),
    ],
)
def test_what_does_not_fit_has_no_type(line: str, reason: str) -> None:
    text = f"input %p: u8[2, 3]\ninput %c: f32[1, 8, 1]\ninput %s: f32[2, 2]\n{line}\nreturn %y"
    with pytest.raises(GraphOptError, match=reason):
        graphopt.parse(text)
