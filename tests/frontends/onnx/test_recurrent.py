"""LSTM, GRU and RNN give the answers of ONNX Runtime: directions, layouts, states, lengths, gates, activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.analysis import Interpreter
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import ConstantKind, Graph

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN, FEATURES = 3, 2


@dataclass(frozen=True)
class Asked:
    """What a recurrent node asks for; `lengths` is None, or how long each sequence is."""

    op: str
    direction: str = "forward"
    layout: int = 0
    bias: bool = True
    states: bool = True
    peepholes: bool = False
    lengths: tuple[int, ...] | None = None
    attributes: tuple[tuple[str, Any], ...] = ()

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def model(self, *, symbolic: bool = True, time: int = 5, batch: int = 2, layout: int | None = None) -> Any:
        """The model, and example inputs of it."""
        rng = np.random.default_rng(7)
        layout = self.layout if layout is None else layout
        gates, count = GATES[self.op], self.directions

        def draw(*shape: int) -> np.ndarray:
            return (0.7 * rng.standard_normal(shape)).astype(np.float32)

        stored = {"W": draw(count, gates * HIDDEN, FEATURES), "R": draw(count, gates * HIDDEN, HIDDEN)}
        names = ["X", "W", "R", "", "", "", "", ""][: 8 if self.op == "LSTM" else 6]
        if self.bias:
            stored["B"], names[3] = draw(count, 2 * gates * HIDDEN), "B"
        if self.lengths is not None:
            stored["lengths"], names[4] = np.array(self.lengths, dtype=np.int32), "lengths"
        if self.peepholes:
            stored["P"], names[7] = draw(count, 3 * HIDDEN), "P"
        sizes: list[Any] = ["time", "batch"] if symbolic else [time, batch]
        inputs, infos = {"X": draw(time, batch, FEATURES)}, {"X": [*sizes, FEATURES]}
        for index, name in enumerate(self._states(), start=5):
            inputs[name], infos[name], names[index] = draw(count, batch, HIDDEN), [count, sizes[1], HIDDEN], name
        if layout:
            inputs = {name: np.swapaxes(array, 0, 1).copy() for name, array in inputs.items()}
            infos = {name: [shape[1], shape[0], shape[2]] for name, shape in infos.items()}
        outputs = ["Y", "Y_h", "Y_c"][: 3 if self.op == "LSTM" and self.lengths is None else 2]
        attributes = {"hidden_size": HIDDEN, "direction": self.direction, **dict(self.attributes)}
        node = helper.make_node(self.op, names, outputs, layout=layout, **attributes)
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in infos.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in stored.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), inputs

    def _states(self) -> tuple[str, ...]:
        if not self.states:
            return ()
        return ("initial_h", "initial_c") if self.op == "LSTM" else ("initial_h",)


def wanted(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def check(asked: Asked, **sizes: Any) -> Graph:
    """Hold a node to ONNX Runtime, which knows only the layout with the time first; return its graph."""
    model, inputs = asked.model(**sizes)
    graph = read_onnx(model)
    assert not [node for node in graph if node.op.name.startswith("onnx.")]
    results = Interpreter(graph).run(*map(torch.from_numpy, inputs.values()))
    plain, plain_inputs = asked.model(**sizes, layout=0)
    for index, (got, array) in enumerate(zip(results, wanted(plain, plain_inputs), strict=True)):
        if asked.layout:
            array = np.moveaxis(array, 2, 0) if index == 0 else np.swapaxes(array, 0, 1)
        torch.testing.assert_close(got, torch.from_numpy(array.copy()), rtol=1e-4, atol=1e-5)
    return graph


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph]


DIRECTIONS = st.sampled_from(["forward", "reverse", "bidirectional"])


@st.composite
def whole(draw: st.DrawFn) -> Asked:
    """What PyTorch's layers can do, so that the sizes need not be known."""
    op = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    direction = draw(DIRECTIONS)
    attributes: dict[str, Any] = {}
    if op == "GRU":
        attributes["linear_before_reset"] = 1
    if op == "RNN" and draw(st.booleans()):
        attributes["activations"] = ["Relu"] * (2 if direction == "bidirectional" else 1)
    lengths = draw(st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)))
    flags = [draw(st.booleans()) for _ in range(2)]
    return Asked(op, direction, draw(st.integers(0, 1)), *flags, False, lengths, tuple(attributes.items()))


@given(whole())
@settings(max_examples=40, deadline=None)
def test_layers_that_pytorch_has_are_whole_over_any_length(asked: Asked) -> None:
    graph = check(asked, time=5 if asked.lengths else 4)
    count = asked.directions if asked.lengths is not None else 1
    kind = {"LSTM": "aten.lstm", "GRU": "aten.gru", "RNN": "aten.rnn_"}[asked.op]
    assert sum(name.startswith(kind) for name in names(graph)) in (1, count)
    if asked.lengths is None:  # stored lengths are of a known number of sequences
        assert str(graph.outputs[0].type.shape[1 if asked.layout else 0]) == "time"


@st.composite
def written_out(draw: st.DrawFn) -> Asked:
    """What PyTorch's layers lack."""
    op = draw(st.sampled_from(["LSTM", "GRU"]))
    attributes: dict[str, Any] = {}
    if draw(st.booleans()):
        attributes["clip"] = 0.4
    if op == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    elif draw(st.booleans()):
        attributes["input_forget"] = 1
    lengths = draw(st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)))
    peepholes = op == "LSTM" and draw(st.booleans())
    flags = [draw(st.booleans()) for _ in range(2)]
    return Asked(op, draw(DIRECTIONS), draw(st.integers(0, 1)), *flags, peepholes, lengths, tuple(attributes.items()))


@given(written_out())
@settings(max_examples=30, deadline=None)
def test_what_pytorch_lacks_is_written_out(asked: Asked) -> None:
    check(asked, symbolic=False)


ACTIVATIONS = {
    "Relu": {},
    "Softsign": {},
    "Softplus": {},
    "Elu": {"activation_alpha": [0.5]},
    "LeakyRelu": {"activation_alpha": [0.3]},
    "ThresholdedRelu": {"activation_alpha": [0.2]},
    "Affine": {"activation_alpha": [0.5], "activation_beta": [0.3]},
    "ScaledTanh": {"activation_alpha": [0.5], "activation_beta": [0.3]},
    "HardSigmoid": {"activation_alpha": [0.3], "activation_beta": [0.4]},
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("op", ["LSTM", "RNN"])
def test_activations(op: str, name: str) -> None:
    functions = ["Sigmoid", name, "Tanh"] if op == "LSTM" else [name]
    check(Asked(op, attributes=(("activations", functions), *ACTIVATIONS[name].items())), symbolic=False, time=3)


def test_parameters_go_to_the_activations_that_take_some() -> None:
    functions = ["Elu", "Softsign", "ScaledTanh", "HardSigmoid", "Tanh", "Affine"]
    given_ = (("activation_alpha", [0.5, 0.8, 0.3, 0.9]), ("activation_beta", [1.2, 0.4, 0.1]))
    check(Asked("LSTM", "bidirectional", attributes=(("activations", functions), *given_)), symbolic=False)


def test_weights_stay_parameters_in_the_order_of_pytorch() -> None:
    asked = Asked("LSTM", "bidirectional", states=False)
    graph = check(asked)
    kinds = {name: value.constant.kind for name, value in graph.constants.items()}
    assert len(kinds) == 8
    assert set(kinds.values()) == {ConstantKind.PARAMETER}
    assert {"W_l0", "W_l0_reverse", "B_ih_l0", "B_hh_l0_reverse"} <= set(kinds)


def test_weights_that_are_computed() -> None:
    model, inputs = Asked("GRU", attributes=(("linear_before_reset", 1),)).model()
    model.graph.node[0].input[1] = "V"
    model.graph.node.insert(0, helper.make_node("Tanh", ["W"], ["V"]))
    graph = read_onnx(model)
    results = Interpreter(graph).run(*map(torch.from_numpy, inputs.values()))
    for got, array in zip(results, wanted(model, inputs), strict=True):
        torch.testing.assert_close(got, torch.from_numpy(array), rtol=1e-4, atol=1e-5)


def test_steps_without_number_are_not_written_out() -> None:
    model, inputs = Asked("GRU").model()
    graph = read_onnx(model)
    assert "onnx.GRU" in names(graph)
    results = Interpreter(graph).run(*map(torch.from_numpy, inputs.values()))
    for got, array in zip(results, wanted(model, inputs), strict=True):
        torch.testing.assert_close(got, torch.from_numpy(array), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["LSTM", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_layers_that_start_from_nothing_are_pruned(op: str, direction: str) -> None:
    asked = Asked(op, direction, states=False)
    model, inputs = asked.model()
    last = helper.make_node("MatMul", [model.graph.node[0].output[0], "D"], ["narrow"])
    model.graph.node.append(last)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((HIDDEN, 2), dtype=np.float32), "D"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("narrow", TensorProto.FLOAT, None))
    arguments = tuple(map(torch.from_numpy, inputs.values()))
    pruned = graphopt.prune(model, arguments, ratio=0.34, target="fx")
    assert pruned.state_dict()["R_l0"].shape == (GATES[op] * (HIDDEN - 1), HIDDEN - 1)
    got = pruned(*arguments)
    written = onnxruntime.InferenceSession(pruned.to_onnx().SerializeToString())
    (wanted_,) = written.run(None, inputs)
    torch.testing.assert_close(got.detach(), torch.from_numpy(wanted_), rtol=1e-4, atol=1e-5)
