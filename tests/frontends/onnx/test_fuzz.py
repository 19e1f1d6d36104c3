"""Damaged files: an answer or a `GraphOptError`, never another exception. `benchmarks/onnx_fuzz.py` runs many more."""

from __future__ import annotations

import functools
import random
import warnings

import onnx
import pytest

import graphopt
from graphopt.testing.onnx_mutations import mutate
from tests.frontends.onnx.models import FLOAT, info, node
from tests.frontends.onnx.real_files import paths

CASES = 100
SMALL = 700_000
"""Files of at most so many bytes are damaged."""


@functools.cache
def files() -> tuple[onnx.ModelProto, ...]:
    """The smallest real files, and a small model with what those lack."""
    return (*[onnx.load(path) for path in paths() if path.stat().st_size < SMALL], mixed())


def mixed() -> onnx.ModelProto:
    """Sizes that are computed, an If, a Loop of known length, a function of the standard and constants."""
    then = onnx.helper.make_graph([node("Slice", "r zero one zero", "b")], "then", [], [info("b")])
    other = onnx.helper.make_graph([node("Neg", "r", "b")], "other", [], [info("b")])
    ints = {"zero": [0], "one": [1], "two": [2], "sizes": [0, -1]}
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Concat", "n minus", "target", axis=0),
        node("Reshape", "x target", "r"),
        node("If", "c", "b", then_branch=then, else_branch=other),
        node("Softplus", "b", "p"),
        node("ReduceMean", "p", "m", axes=[-1], keepdims=1),
        node("LayerNormalization", "p scale", "l", axis=-1),
        node("Expand", "m s", "e"),
        node("Tile", "l two_two", "t"),
        node("Pad", "t pads", "y"),
    ]
    stored = [onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(v)], v) for name, v in ints.items()]
    stored += [
        onnx.helper.make_tensor("minus", onnx.TensorProto.INT64, [1], [-1]),
        onnx.helper.make_tensor("two_two", onnx.TensorProto.INT64, [2], [2, 2]),
        onnx.helper.make_tensor("pads", onnx.TensorProto.INT64, [4], [0, 1, 0, 1]),
        onnx.helper.make_tensor("scale", FLOAT, [4], [1.0, 2.0, 3.0, 4.0]),
        onnx.helper.make_tensor("c", onnx.TensorProto.BOOL, [], [True]),
    ]
    inputs, outputs = [info("x", ("rows", 4))], [info("y"), info("e")]
    graph = onnx.helper.make_graph(nodes, "mixed", inputs, outputs, stored)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_the_small_model_itself_is_read() -> None:
    graphopt.compile(mixed(), target="onnx", validate=False).to_onnx()


@pytest.mark.parametrize("seed", range(CASES))
def test_a_damaged_file_gives_an_answer_or_one_clear_error(seed: int) -> None:
    generator = random.Random(seed)
    _, data = mutate(generator.choice(files()), generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graphopt.compile(data, target="onnx", validate="each" if seed % 4 == 0 else False).to_onnx()
        except graphopt.GraphOptError as error:
            assert str(error)
