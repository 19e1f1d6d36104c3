"""Inference by fake tensors: sizes that depend on data, hints that must not leak, refusals in one quiet sentence."""

from __future__ import annotations

import logging

import pytest
import torch

from graphopt.errors import TypeInferenceError
from graphopt.ir import Call, DType, Symbol, TensorType, Type, complete, symbol, verify
from graphopt.ir.dims import Dim, bounds, evaluate, symbols_of
from graphopt.ops import get_op, parse
from graphopt.ops.fake import infer_by_fake
from graphopt.ops.quiet import quiet

N, M = symbol("n", 2), symbol("m", 2)


def tensor(*shape: Dim, dtype: DType = DType.F32, device: str = "cpu") -> TensorType:
    return TensorType(dtype, shape, device)


def infer(name: str, *operands: Type | None, **attributes: object) -> tuple[Type, ...]:
    op = get_op(f"aten.{name}")
    return infer_by_fake(Call(op, operands, complete(op, attributes)))


MASK = tensor(4, 3, dtype=DType.BOOL)


@pytest.mark.parametrize(
    ("name", "operands", "attributes", "expected"),
    [
        ("nonzero", [tensor(4, 3)], {}, "i64[?0, 2]"),
        ("nonzero", [tensor(N, 3)], {}, "i64[?0, 2]"),
        ("argwhere", [tensor(4, 3)], {}, "i64[?0, 2]"),
        ("where", [tensor(4, 3)], {}, "i64[?0], i64[?0]"),
        ("masked_select", [tensor(4, 3), MASK], {}, "f32[?0]"),
        ("index.Tensor", [tensor(4, 3), MASK], {}, "f32[?0]"),
        ("index.Tensor", [tensor(4, 3, 5), MASK], {}, "f32[?0, 5]"),
        ("index.Tensor", [tensor(5, 3), None, tensor(3, dtype=DType.BOOL)], {}, "f32[5, ?0]"),
        ("index.Tensor", [tensor(N, 3), tensor(N, dtype=DType.BOOL)], {}, "f32[?0, 3]"),
        ("_unique2", [tensor(4, 3)], {"return_inverse": True}, "f32[?0], i64[4, 3], i64[0]"),
        ("unique_consecutive", [tensor(4)], {}, "f32[?0], i64[0], i64[0]"),
        ("unique_dim", [tensor(4, 3)], {"dim": 0}, "f32[?0, 3], i64[4], i64[?0]"),
        ("bincount", [tensor(4, dtype=DType.I64), None], {}, "i64[?0]"),
        ("repeat_interleave.Tensor", [tensor(4, dtype=DType.I64)], {}, "i64[?0]"),
        ("item", [tensor(dtype=DType.I64)], {}, "int(?0)"),
        ("item", [tensor()], {}, "float"),
        ("item", [tensor(dtype=DType.BOOL)], {}, "bool"),
        ("equal", [tensor(2), tensor(2)], {}, "bool"),
        ("allclose", [tensor(N), tensor(N)], {}, "bool"),
        ("is_nonzero", [tensor(1)], {}, "bool"),
        ("_local_scalar_dense", [tensor(dtype=DType.I32)], {}, "int(?0)"),
    ],
)
def test_sizes_that_depend_on_data(
    name: str, operands: list[Type], attributes: dict[str, object], expected: str
) -> None:
    found = infer(name, *operands, **attributes)
    assert ", ".join(map(repr, found)).replace('"', "") == expected


def test_ranges_of_sizes_that_depend_on_data_are_known() -> None:
    (type_,) = infer("nonzero", tensor(4, 3))
    assert bounds(type_.shape[0]) == (0, 12)  # type: ignore[union-attr]
    (type_,) = infer("item", tensor(dtype=DType.I64))
    (found,) = symbols_of(type_.value)  # type: ignore[union-attr]
    assert found == Symbol("?0", -(2**63))


def test_each_node_of_a_graph_gets_symbols_of_its_own() -> None:
    graph = parse(
        """
    input %x: f32[n, 3]
    %a = nonzero(%x)
    %b = nonzero(%x)
    %values, %inverse, %counts = _unique2(%x) {return_counts=true}
    %k = item(%counts)
    return %a, %b, %values""".replace("    %k = item(%counts)\n", "")
    )
    verify(graph)
    names = [str(node.results[0].type.shape[0]) for node in graph]  # type: ignore[union-attr]
    assert names == ["u0", "u1", "u2"]


@pytest.mark.parametrize(
    ("name", "operands", "attributes"),
    [
        ("slice.Tensor", [tensor(N)], {"end": 10}),
        ("squeeze", [tensor(symbol("k"), 3)], {}),
        ("narrow", [tensor(N, 4)], {"dim": 0, "start": 0, "length": 2}),
        ("cat", [tensor(N, 4), tensor(M, 4)], {"dim": 0}),
        ("unfold", [tensor(N, 4)], {"dimension": 0, "size": 2, "step": 3}),
        ("avg_pool1d", [tensor(2, N)], {"kernel_size": 3, "stride": 2, "ceil_mode": True, "padding": 1}),
        ("tril_indices", [], {"row": 4, "col": 3, "offset": 0}),
        ("fft_rfft", [tensor(3, N)], {}),
        ("cumsum", [tensor(N)], {"dim": 0}),
        ("constant_pad_nd", [tensor(N, 2)], {"pad": (1, 0)}),
        ("combinations", [tensor(N)], {}),
        ("block_diag", [tensor(N, 2), tensor(M, 3)], {}),
        ("stft", [tensor(N)], {"n_fft": 4, "return_complex": True, "normalized": False, "onesided": True}),
    ],
)
def test_symbolic_types_hold_at_every_size(name: str, operands: list[Type], attributes: dict[str, object]) -> None:
    """A type that is inferred for symbols is that of any sizes; what a guard decided is a new symbol."""
    found = infer(name, *operands, **attributes)
    for n, m in ((7, 5), (30, 11), (101, 64)):
        sizes = {"n": n, "m": m, "k": n}
        expected = infer(name, *[at(t, sizes, t) for t in operands], **attributes)
        assert tuple(at(a, sizes, b) for a, b in zip(found, expected, strict=True)) == expected


def at(type_: Type, sizes: dict[str, int], expected: Type) -> Type:
    """The type at some sizes; what is left open is as expected."""
    assert isinstance(type_, TensorType) and isinstance(expected, TensorType)
    return type_.with_shape(
        tuple(b if "?" in str(a) else evaluate(a, sizes) for a, b in zip(type_.shape, expected.shape, strict=True))
    )


def test_a_size_that_the_example_decided_is_left_open() -> None:
    (type_,) = infer("slice.Tensor", tensor(N, 3), end=10)
    assert repr(type_) == 'f32["?0", 3]'
    (type_,) = infer("slice.Tensor", tensor(symbol("n", 10, 40)), end=10)
    assert type_ == tensor(10)
    (type_,) = infer("slice.Tensor", tensor(symbol("n", 2, 9)), end=10)
    assert repr(type_) == "f32[n]"


@pytest.mark.parametrize(
    ("name", "operands", "attributes", "expected"),
    [
        ("fft_rfft", [tensor(3, N)], {}, "c64[3, ?0]"),
        ("fft_fft", [tensor(M, N)], {}, "c64[m, n]"),
        ("constant_pad_nd", [tensor(N, 2)], {"pad": (1, 0)}, "f32[n, 3]"),
        ("constant_pad_nd", [tensor(2, N * 2)], {"pad": (1, 4)}, "f32[2, 2*n + 5]"),
    ],
)
def test_sizes_are_learnt_where_pytorch_fixes_symbols(
    name: str, operands: list[Type], attributes: dict[str, object], expected: str
) -> None:
    assert ", ".join(map(repr, infer(name, *operands, **attributes))).replace('"', "") == expected


def test_hints_stay_in_the_range_and_off_the_sizes_of_the_call() -> None:
    """With a hint of 16, or equal hints, PyTorch would take the sizes for equal."""
    small, same = symbol("a", 2, 16), symbol("b", 2, 16)
    with pytest.raises(TypeInferenceError):
        infer("mm", tensor(4, small), tensor(16, 5))
    with pytest.raises(TypeInferenceError):
        infer("mm", tensor(4, small), tensor(same, 5))
    (type_,) = infer("mm", tensor(4, small), tensor(small, symbol("e", 2, None, 8)))
    assert repr(type_) == "f32[4, e]"


REFUSED = [
    ("mm", [tensor(2, 3), tensor(4, 5)], {}),
    ("mm", [tensor(2, symbol("n", 5)), tensor(4, 5)], {}),
    ("conv2d", [tensor(2, 3, 4, 4), tensor(5, 4, 3, 3), None], {}),
    ("embedding", [tensor(2, 3), tensor(4)], {}),
    ("sum.dim_IntList", [tensor(2, 3)], {"dim": (2,)}),
    ("cat", [tensor(2, 3), tensor(4)], {}),
    ("one_hot", [tensor(3, dtype=DType.I64)], {}),
    ("one_hot", [tensor(N, dtype=DType.I64)], {}),
]


@pytest.mark.parametrize(("name", "operands", "attributes"), REFUSED)
def test_refusals_are_one_quiet_sentence(
    name: str,
    operands: list[Type],
    attributes: dict[str, object],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for ask in (infer_by_fake, get_op(f"aten.{name}").infer):
        assert ask is not None
        op = get_op(f"aten.{name}")
        with pytest.raises(TypeInferenceError) as caught:
            ask(Call(op, tuple(operands), complete(op, attributes)))
        message = str(caught.value)
        shown = ", ".join("none" if t is None else repr(t) for t in operands)
        assert message.startswith(f"aten.{name} cannot take ({shown})")
        assert "\n" not in message
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr().err == ""


def test_messages_use_the_names_of_the_graph() -> None:
    with pytest.raises(TypeInferenceError, match=r"but got \[2, n\] X \[4, 5\]"):
        infer("mm", tensor(2, N), tensor(4, 5))


def test_loggers_are_as_before(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("graphopt.test")
    with quiet("graphopt.test"):
        logger.error("dropped")
    logger.error("kept")
    assert [record.message for record in caplog.records] == ["kept"]
    assert not logger.filters
    with pytest.raises(RuntimeError), quiet("graphopt.test"):
        raise RuntimeError
    assert not logger.filters


@pytest.mark.parametrize(
    ("operands", "device"),
    [
        ([tensor(2), tensor(2)], "cpu"),
        ([tensor(2, device="cuda:0"), tensor(2, device="cuda:0")], "cuda:0"),
        ([tensor(), tensor(2, device="cuda:0")], "cuda:0"),
        ([tensor(2, device="cuda:0"), tensor()], "cuda:0"),
    ],
)
def test_devices_are_those_of_the_ir(operands: list[TensorType], device: str) -> None:
    for name in ("add.Tensor", "mul.Tensor"):
        op = get_op(f"aten.{name}")
        call = Call(op, tuple(operands), complete(op, {}))
        (by_rule,), (by_fake,) = op.infer(call), infer_by_fake(call)  # type: ignore[misc]
        assert by_rule == by_fake and by_fake.device == device  # type: ignore[union-attr]


def test_device_attribute_decides() -> None:
    (type_,) = infer("zeros_like", tensor(2), device="cuda:1")
    assert type_ == tensor(2, device="cuda:1")
    assert infer("zeros", size=(2,), device="cuda") == (tensor(2, device="cuda"),)


def test_operators_without_results() -> None:
    assert infer("_assert_async.msg", tensor(dtype=DType.BOOL), assert_msg="no") == ()


def test_inference_runs_no_kernels_and_touches_no_generator() -> None:
    state = torch.get_rng_state()
    (type_,) = infer("randn", size=(10**6, 10**6))
    assert type_ == tensor(10**6, 10**6)
    infer("dropout", tensor(4), p=0.5, train=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_missing_operands_are_named() -> None:
    linear = get_op("aten.linear")
    assert linear.infer is not None
    with pytest.raises(TypeInferenceError, match="operand 'weight' is missing"):
        linear.infer(Call(linear, (tensor(2), None, None), complete(linear, {})))
