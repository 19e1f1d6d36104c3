"""Attention in all its forms: against ONNX Runtime, and where that has no kernel, against ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphopt.analysis import Interpreter
from graphopt.frontends.onnx import read_onnx
from tests.frontends.onnx.oracle import agrees, is_translated, one_node

NAMES = ("q", "k", "v", "mask", "past_key", "past_value", "lengths")
RUNS = settings(max_examples=100, deadline=None)


def random(shape: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def problems(draw: Any) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, list[Any]], list[str]]:
    """Operands, attributes, symbolic shapes and outputs of an attention node of opset 24."""
    batch, heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    queries, keys, size, width = (draw(st.integers(1, 4)) for _ in range(4))
    past = draw(st.integers(0, 3)) if draw(st.booleans()) else None
    flat, many = draw(st.booleans()), heads * groups
    shapes: dict[str, list[Any]] = {}
    arrays: dict[str, np.ndarray] = {}

    def operand(name: str, count: int, length: int, width: int, label: str) -> None:
        shape = [batch, length, count * width] if flat else [batch, count, length, width]
        arrays[name] = random(shape, len(arrays))
        shapes[name] = ["b", label, count * width] if flat else ["b", count, label, width]

    operand("q", many, queries, size, "l")
    operand("k", heads, keys, size, "s")
    operand("v", heads, keys, width, "s")
    total = keys + (past or 0)
    if draw(st.booleans()):
        shape = [[queries, total], [many, queries, total], [batch, 1, queries, total]][draw(st.integers(0, 2))]
        seen = np.random.default_rng(7).random(shape) < 0.6
        arrays["mask"] = seen if draw(st.booleans()) else np.where(seen, random(shape, 9), -np.inf).astype(np.float32)
        if past is None:
            shapes["mask"] = [*("b" if d == batch and i == 0 and len(shape) == 4 else d for i, d in enumerate(shape))]
            shapes["mask"][-2:] = ["l", "s"]
    if past is not None:
        for name, last in (("past_key", size), ("past_value", width)):
            arrays[name] = random([batch, heads, past, last], 11)
            shapes[name] = ["b", heads, "p", last]
    elif draw(st.booleans()):
        arrays["lengths"] = np.array([draw(st.integers(1, keys)) for _ in range(batch)])
        shapes["lengths"] = ["b"]
    attributes: dict[str, Any] = {"is_causal": int(draw(st.booleans()))}
    if flat:
        attributes |= {"q_num_heads": many, "kv_num_heads": heads}
    if draw(st.booleans()):
        attributes["scale"] = draw(st.sampled_from([0.25, 1.0]))
    outputs = ["y"]
    if draw(st.booleans()):
        attributes["softcap"] = draw(st.sampled_from([0.0, 0.5]))
    if past is not None:
        outputs += ["present_key", "present_value"]
    if draw(st.booleans()):
        # With a cap, ONNX's reference says "raw" of the capped scores, its definition by other operators doesn't.
        attributes["qk_matmul_output_mode"] = draw(
            st.sampled_from([1, 2, 3] if "softcap" in attributes else [0, 1, 2, 3])
        )
        outputs = [*[*outputs, "", ""][:3], "scores"]
    return arrays, attributes, shapes if draw(st.booleans()) else {}, outputs


@RUNS
@given(problems())
def test_attention_is_that_of_the_reference(problem: Any) -> None:
    arrays, attributes, shapes, outputs = problem
    names = [name if name in arrays else "" for name in NAMES]
    while not names[-1]:
        names.pop()
    model = one_node("Attention", arrays, attributes, 24, symbolic=shapes, names=names, outputs=outputs)
    graph = read_onnx(model)
    assert is_translated(graph)
    results = Interpreter(graph).run(*[torch.from_numpy(array) for array in arrays.values()])
    wanted = [w for w, name in zip(ReferenceEvaluator(model).run(None, arrays), [o for o in outputs if o])]
    for result, array in zip(results, wanted, strict=True):
        torch.testing.assert_close(result, torch.from_numpy(array), rtol=1e-4, atol=1e-5, equal_nan=True)
    lowest = attributes.get("qk_matmul_output_mode") == 2  # ONNX Runtime's least score there is finite
    ahead = attributes["is_causal"] and "past_key" in arrays and arrays["k"].shape[-2] != arrays["q"].shape[-2]
    if not lowest and not ahead:  # it counts positions from the last key
        agrees(model, arrays)


def test_plain_attention_is_one_operator() -> None:
    arrays = {name: random([2, 3, 4, 8]) for name in "qkv"}
    shapes = {name: ["b", 3, "l", 8] for name in "qkv"}
    for attributes in ({}, {"is_causal": 1}, {"scale": 0.1}):
        graph = agrees(one_node("Attention", arrays, attributes, 23, symbolic=shapes), arrays)
        assert [node.op.name for node in graph] == ["aten.scaled_dot_product_attention"]


@pytest.mark.parametrize("window", [(1, -1), (-1, 1), (2, 0), (0, 1)])
@pytest.mark.parametrize("causal", [0, 1])
def test_windows(window: tuple[int, int], causal: int) -> None:
    arrays = {"q": random([2, 2, 5, 4]), "k": random([2, 2, 7, 4], 1), "v": random([2, 2, 7, 4], 2)}
    attributes = {"left_window_size": window[0], "right_window_size": window[1], "is_causal": causal}
    model = one_node("Attention", arrays, attributes, 25)
    result = Interpreter(read_onnx(model)).run(*map(torch.from_numpy, arrays.values()))[0]
    torch.testing.assert_close(result, torch.from_numpy(ReferenceEvaluator(model).run(None, arrays)[0]))


RULES = ("linear", "gated", "delta", "gated_delta")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("length", [1, 3, 70])
@pytest.mark.parametrize("symbolic", [False, True])
def test_linear_attention_is_the_recurrence(rule: str, length: int, symbolic: bool) -> None:
    """Chunks of a sequence of known length, and all of one of unknown length, give what step after step gives."""
    heads, groups, size, width = 2, 2, 4, 3
    arrays = {"q": random([2, length, heads * groups * size]), "v": random([2, length, heads * width], 2)}
    key = random([2, length, heads, size], 1)
    arrays["k"] = (key / np.linalg.norm(key, axis=-1, keepdims=True)).reshape(2, length, heads * size)
    arrays["state"] = random([2, heads, size, width], 3)
    names = ["q", "k", "v", "state", "", ""]
    for per_head in (True, False):
        if "gated" in rule:
            arrays["decay"] = -np.abs(random([2, length, heads if per_head else heads * size], 4))
            names[4] = "decay"
        if "delta" in rule:
            arrays["rate"] = np.random.default_rng(5).random([2, length, heads if per_head else 1], dtype=np.float32)
            names[5] = "rate"
        shapes = {n: ["b", "t", a.shape[-1]] for n, a in arrays.items() if a.ndim == 3} if symbolic else {}
        attributes = {"q_num_heads": heads * groups, "kv_num_heads": heads, "update_rule": rule}
        model = one_node("LinearAttention", arrays, attributes, 27, symbolic=shapes, names=names, outputs=["y", "last"])
        graph = read_onnx(model)
        assert is_translated(graph)
        results = Interpreter(graph).run(*map(torch.from_numpy, arrays.values()))
        for result, wanted in zip(results, ReferenceEvaluator(model).run(None, arrays), strict=True):
            torch.testing.assert_close(result, torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)
