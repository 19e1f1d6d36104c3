"""Model → graph → FX module: outputs, state and gradients are the model's, also at other sizes and in training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.backends.fx import emit_fx
from graphopt.frontends import capture
from tests.zoo import MODELS, ZooModel, seeded

NAMES = [
    *("lenet", "resnet8", "unet", "shufflenet", "norms", "decoder", "audio", "lstm", "gru", "stateful-lstm"),
    *("transformer-encoder", "vit-tiny", "recommender", "graph-network", "multi-output", "nested-input", "tied"),
    *("in-place", "input-mutation", "cond", "while-loop", "data-dependent-shape", "noise", "mixed-types", "empty"),
    *("hf-bert", "hf-t5"),
]
NOT_DIFFERENTIABLE = {"in-place"}  # the model's own backward raises


def emitted(entry: ZooModel) -> tuple[nn.Module, torch.fx.GraphModule]:
    model = entry.build()
    args, kwargs = entry.inputs(batch=2)
    shapes = entry.dynamic_shapes() if entry.dynamic is not None else None
    return model, emit_fx(capture(model, args, kwargs, dynamic_shapes=shapes))


def call(model: nn.Module, entry: ZooModel, batch: int) -> tuple[Any, list[Any]]:
    """The result of a call from a fixed seed, and the arguments' tensors after it."""
    args, kwargs = entry.inputs(batch=batch, seed=batch)
    with seeded():
        return model(*args, **kwargs), pytree.tree_leaves((args, kwargs))


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def same(a: Any, b: Any) -> bool:
    left, right = tensors(a), tensors(b)
    return len(left) == len(right) and all(torch.equal(x, y) for x, y in zip(left, right))


@pytest.mark.parametrize("name", NAMES)
def test_outputs_state_and_gradients(name: str) -> None:
    entry = MODELS[name]
    model, module = emitted(entry)
    assert set(module.state_dict()) == set(model.state_dict())
    assert [n for n, _ in module.named_parameters()] == [n for n, _ in model.named_parameters()]
    for batch in (2, 5) if entry.dynamic is not None else (2,):
        ours, theirs = copy.deepcopy(module), copy.deepcopy(model)
        result, after = call(ours, entry, batch)
        expected, expected_after = call(theirs, entry, batch)
        assert pytree.tree_structure(result) == pytree.tree_structure(expected)
        assert same(result, expected) and same(after, expected_after)
        assert same(dict(ours.state_dict()), {k: theirs.state_dict()[k] for k in ours.state_dict()})
        if name not in NOT_DIFFERENTIABLE:
            compare_gradients(ours, theirs, result, expected)


def compare_gradients(ours: nn.Module, theirs: nn.Module, result: Any, expected: Any) -> None:
    for tree in (result, expected):
        losses = [t.square().mean() for t in tensors(tree) if t.requires_grad]
        if losses:
            torch.stack(losses).sum().backward()
    for name, parameter in theirs.named_parameters():
        gradient = ours.get_parameter(name).grad
        assert (gradient is None) == (parameter.grad is None)
        assert gradient is None or torch.allclose(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lenet", "resnet8", "norms", "lstm", "hf-mobilenet-v2"])
def test_training_mode(name: str) -> None:
    """Dropout from one seed, batch statistics, and their updates agree bit for bit."""
    entry = MODELS[name]
    model, module = emitted(entry)
    for mode in (True, False):
        model.train(mode)
        module.train(mode)
        for batch in (2, 3):
            assert same(call(module, entry, batch)[0], call(model, entry, batch)[0])
    for key, value in model.state_dict().items():
        assert torch.equal(module.state_dict()[key], value)


@pytest.mark.parametrize("name", ["lenet", "tied", "lstm", "cond", "nested-input", "hf-bert"])
def test_captured_again(name: str) -> None:
    """A second trip gives the same module again."""
    entry = MODELS[name]
    model, module = emitted(entry)
    args, kwargs = entry.inputs(batch=2)
    again = emit_fx(capture(module, args, kwargs, dynamic_shapes=entry.dynamic_shapes()))
    assert set(again.state_dict()) == set(model.state_dict())
    assert same(call(again, entry, 3)[0], call(model, entry, 3)[0])
    assert calls_in(again) <= calls_in(module)


def calls_in(module: torch.fx.GraphModule) -> int:
    return sum(node.op in ("call_function", "call_method") for node in module.graph.nodes)


@pytest.mark.parametrize("name", ["resnet8", "nested-input", "multi-output"])
def test_compiled_by_torch(name: str) -> None:
    entry = MODELS[name]
    model, module = emitted(entry)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for batch in (2, 3):
        for got, expected in zip(
            tensors(call(compiled, entry, batch)[0]), tensors(call(model, entry, batch)[0]), strict=True
        ):
            assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)
