"""Parameters and buffers: names, ties, flags, isolation from the original."""

from __future__ import annotations

import copy

import pytest
import torch

from graphopt.errors import EmissionError
from graphopt.ir import Constant, ConstantKind, Graph, TensorType, from_torch
from graphopt.ops import parse
from tests.backends.fx.helpers import emit

TIED = """
    input %x: f32[N, 4]
    parameter %"embed.weight": f32[4, 4] names "embed.weight", "head.weight" requires_grad
    parameter %"block.0.scale": f32[4]
    buffer %"block.0.shift": f32[4]
    buffer %"block.0.cache": f32[4] not_persistent
    constant %folded: f32[4] = (1.0, 2.0, 3.0, 4.0)
    %a = linear(%x, %"embed.weight")
    %b = mul.Tensor(%a, %"block.0.scale")
    %c = add.Tensor(%b, %"block.0.shift")
    %d = add.Tensor(%c, %"block.0.cache")
    %e = mul.Tensor(%d, %folded)
    return %e"""


def test_names_kinds_and_flags() -> None:
    module = emit(parse(TIED))
    assert list(module.state_dict()) == ["embed.weight", "head.weight", "block.0.scale", "block.0.shift"]
    assert [name for name, _ in module.named_parameters()] == ["embed.weight", "block.0.scale"]
    assert module.embed.weight is module.head.weight
    assert module.embed.weight.requires_grad and not module.block.get_parameter("0.scale").requires_grad
    assert dict(module.named_buffers()).keys() == {"folded", "block.0.shift", "block.0.cache"}
    assert type(module.block) is torch.nn.Module


def test_state_dict_restores_the_module() -> None:
    first, second = emit(parse(TIED)), emit(parse(TIED))
    x = torch.randn(2, 4)
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.mul_(0.5)
    assert not torch.equal(first(x)[0], second(x)[0])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x)[0], second(x)[0])


def test_copies_keep_ties_and_persistence_also_at_the_root() -> None:
    graph = parse("""
        input %x: f32[4]
        parameter %a: f32[4] names "a", "b" requires_grad
        buffer %c: f32[4] not_persistent
        buffer %unused: f32[4]
        %y = mul.Tensor(%x, %a)
        %z = add.Tensor(%y, %c)
        return %z""")
    module = emit(graph)
    for _ in range(2):
        copied = copy.deepcopy(module)
        assert copied.a is copied.b and copied.a is not module.a
        assert list(copied.state_dict()) == list(module.state_dict()) == ["a", "b", "unused"]
        assert torch.equal(copied(torch.ones(4))[0], module(torch.ones(4))[0])
        module = copied


def test_training_the_result_leaves_the_original_alone() -> None:
    graph = parse(TIED)
    before = {name: v.constant.tensor.clone() for name, v in graph.constants.items()}  # type: ignore[union-attr]
    module = emit(graph)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.ones(3, 4))[0].sum().backward()
    optimizer.step()
    assert not torch.equal(module.embed.weight, before["embed.weight"])
    for name, value in graph.constants.items():
        assert torch.equal(value.constant.tensor, before[name])  # type: ignore[union-attr]


def test_shared_weights_share_storage() -> None:
    graph = parse(TIED)
    module = emit(graph, share_weights=True)
    original = graph.constants["embed.weight"].constant
    assert original is not None
    assert module.embed.weight.data_ptr() == original.tensor.data_ptr()
    assert emit(graph).embed.weight.data_ptr() != original.tensor.data_ptr()


def test_one_tensor_under_two_constants_stays_one() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(from_torch(torch.float32), (2,)))
    tensor = torch.ones(2)
    for name in ("a", "b"):
        constant = Constant(tensor, ConstantKind.PARAMETER, (name,), True)
        graph.add_constant(name, x.type, constant)
    graph.set_outputs([x])
    module = emit(graph)
    assert module.a is module.b


def test_a_tensor_changed_since_capture_is_an_error_that_names_it() -> None:
    graph = parse(TIED)
    constant = graph.constants["block.0.shift"].constant
    assert constant is not None
    constant.tensor.add_(1)
    with pytest.raises(EmissionError, match=r"block\.0\.shift.*capture the model again"):
        emit(graph)


@pytest.mark.parametrize("name", ["graph", "code", "graph.weight", "a b", "0", "onnx::Conv_1", "x/y:z", "class", ".a."])
def test_awkward_names_run(name: str) -> None:
    graph = parse("input %x: f32[2]\nreturn %x")
    constant = Constant(torch.full((2,), 3.0), ConstantKind.BUFFER, (name,))
    value = graph.add_constant(name, graph.inputs[0].type, constant)
    graph.set_outputs([value])
    module = emit(graph)
    assert module(torch.ones(2))[0].tolist() == [3.0, 3.0]
    assert copy.deepcopy(module)(torch.ones(2))[0].tolist() == [3.0, 3.0]


def test_two_tensors_that_want_one_name_both_live() -> None:
    graph = parse("""
        input %x: f32[2]
        constant %p: f32[2] = (1.0, 2.0)
        buffer %"p.q": f32[2] = (10.0, 20.0)
        %y = add.Tensor(%p, %"p.q")
        return %y""")
    assert emit(graph)(torch.zeros(2))[0].tolist() == [11.0, 22.0]


def test_emission_under_inference_mode_still_trains() -> None:
    graph = parse(TIED)
    with torch.inference_mode():
        module = emit(graph)
    module(torch.ones(3, 4))[0].sum().backward()
    assert module.embed.weight.grad is not None
