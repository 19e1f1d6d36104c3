"""The module is a citizen of PyTorch: it exports, compiles, converts and copies; its code reads well."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphopt.analysis import run_graph
from graphopt.errors import EmissionError
from graphopt.ir import Op, Param, ParamKind, Trait
from graphopt.ops import parse, registry
from tests.backends.fx.helpers import emit

NET = """
    input %x: f32[N, 1, 8, 8]
    parameter %conv.weight: f32[4, 1, 3, 3] requires_grad
    parameter %bn.weight: f32[4] requires_grad
    parameter %bn.bias: f32[4] requires_grad
    buffer %bn.running_mean: f32[4]
    buffer %bn.running_var: f32[4]
    parameter %fc.weight: f32[3, 64] requires_grad
    %1 = conv2d(%x, %conv.weight) {stride=(2, 2), padding=(1, 1)} @ "net.py":10 "conv"
    %2 = batch_norm(%1, %bn.weight, %bn.bias, %bn.running_mean, %bn.running_var)
        {training="follow", momentum=0.1, eps=1e-05, cudnn_enabled=true} @ "net.py":11 "bn"
    %3 = relu(%2) @ "net.py":12 ""
    %4 = mul.Scalar(%3) {other=0.5} @ "net.py":12 "" <- "halve"
    %5 = reshape(%4) {shape=(N, 64)} @ "net.py":13 "head"
    %6 = linear(%5, %fc.weight) @ "net.py":13 "head.fc"
    return %6""".replace("\n        {", " {")


def test_code_is_readable() -> None:
    assert (
        emit(parse(NET)).code.strip()
        == """
def forward(self, x):
    N = x.size(0)
    conv_weight = self.conv.weight
    conv = torch.conv2d(x, conv_weight, stride = [2, 2], padding = [1, 1]);  x = conv_weight = None
    bn_weight = self.bn.weight
    bn_bias = self.bn.bias
    bn_running_mean = self.bn.running_mean
    bn_running_var = self.bn.running_var
    bn = self.bn(conv, bn_weight, bn_bias, bn_running_mean, bn_running_var);  \
conv = bn_weight = bn_bias = bn_running_mean = bn_running_var = None
    relu = torch.relu(bn);  bn = None
    mul = relu * 0.5;  relu = None
    head = torch.reshape(mul, [N, 64]);  mul = N = None
    fc_weight = self.fc.weight
    head_fc = torch._C._nn.linear(head, fc_weight);  head = fc_weight = None
    return (head_fc,)""".strip()
    )


def test_nodes_say_where_they_come_from() -> None:
    module = emit(parse(NET))
    (node,) = [n for n in module.graph.nodes if n.name == "mul"]
    assert node.meta["stack_trace"] == '  File "net.py", line 12, in forward\n    aten.mul.Scalar  # halve'
    assert node.meta["location"].rules == ("halve",)


@pytest.mark.parametrize("dynamic", [False, True])
def test_exports_again(dynamic: bool) -> None:
    module = emit(parse(NET))
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic else None
    exported = torch.export.export(module, (torch.randn(4, 1, 8, 8),), dynamic_shapes=shapes)
    targets = {str(n.target) for n in exported.graph.nodes if n.op == "call_function"}
    assert {"aten.conv2d.default", "aten.batch_norm.default", "aten.relu.default"} <= targets
    for batch in (1, 2, 7) if dynamic else (4,):
        x = torch.randn(batch, 1, 8, 8)
        assert torch.equal(exported.module()(x)[0], module(x)[0])


def test_compiles_for_inference_and_training() -> None:
    module = emit(parse(NET))
    twin = copy.deepcopy(module)
    x = torch.randn(4, 1, 8, 8)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x)[0], twin(x)[0])
    module.train()
    twin.train()
    compiled(x)[0].square().sum().backward()
    twin(x)[0].square().sum().backward()
    assert torch.allclose(module.conv.weight.grad, twin.conv.weight.grad, atol=1e-5)
    assert torch.allclose(module.bn.running_var, twin.bn.running_var)


def test_compiles_by_inductor() -> None:
    module = emit(parse(NET))
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(torch.compile(module)(x)[0], module(x)[0], atol=1e-5)


def test_converts_to_double_and_agrees_with_the_double_interpreter() -> None:
    graph = parse(NET)
    x = torch.randn(4, 1, 8, 8)
    module = emit(graph).to(torch.float64)
    assert torch.allclose(module(x.double())[0], run_graph(graph, x, float64=True)[0], rtol=1e-12, atol=1e-12)


def test_a_copy_is_apart_and_computes_the_same() -> None:
    module = emit(parse(NET))
    copied = copy.deepcopy(module)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(copied(x)[0], module(x)[0])
    with torch.no_grad():
        copied.fc.weight.zero_()
    assert module(x)[0].any() and not copied(x)[0].any()
    copied.train()
    assert copied.bn.training and not module.bn.training
    assert isinstance(copied, torch.fx.GraphModule) and copied.code == module.code


def test_a_graph_module_can_be_transformed() -> None:
    module = emit(parse(NET))
    for node in module.graph.nodes:
        if node.target is torch.relu:
            node.target = torch.tanh
    module.graph.lint()
    module.recompile()
    assert "torch.tanh" in module.code
    module.graph.eliminate_dead_code()
    assert module(torch.randn(2, 1, 8, 8))[0].shape == (2, 3)


def test_gradients_are_eager_ones() -> None:
    module = emit(parse(NET))
    x = torch.randn(4, 1, 8, 8)
    conv = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
    conv.weight.data.copy_(module.conv.weight)
    bn = nn.BatchNorm2d(4)
    bn.load_state_dict(module.bn.state_dict(), strict=False)
    fc = nn.Linear(64, 3, bias=False)
    fc.weight.data.copy_(module.fc.weight)
    eager = nn.Sequential(conv, bn.eval())
    (fc((torch.relu(eager(x)) * 0.5).flatten(1))).square().sum().backward()
    module(x)[0].square().sum().backward()
    for got, expected in ((module.conv, conv), (module.bn, bn), (module.fc, fc)):
        assert torch.equal(got.weight.grad, expected.weight.grad)


def test_custom_operators_are_called_as_they_are() -> None:
    with torch.library._scoped_library("graphopt_fx_test", "DEF") as library:
        library.define("scaled(Tensor x, float factor, *, bool negate=False) -> Tensor[]")
        library.impl(
            "scaled", lambda x, factor, negate=False: [x * (-factor if negate else factor)], "CompositeExplicitAutograd"
        )
        graph = parse("""
            input %x: f32[N]
            %y: f32[N] = graphopt_fx_test.scaled(%x) {factor=2.0, negate=true}
            return %y""")
        module = emit(graph)
        assert "torch.ops.graphopt_fx_test.scaled.default(x, 2.0, negate = True)" in module.code
        assert module(torch.ones(2))[0].tolist() == [-2.0, -2.0]


def test_registered_python_semantics_are_called() -> None:
    op = registry.register(
        Op(
            "fxtest.double",
            (Param("x", ParamKind.OPERAND), Param("times", ParamKind.ATTRIBUTE, "int", 1)),
            frozenset({Trait.PURE}),
            lambda call: [call.operand_types[0]],  # type: ignore[list-item]
            double,
        )
    )
    module = emit(parse("input %x: f32[2]\n%y = fxtest.double(%x) {times=2}\nreturn %y"))
    assert op.evaluate is double
    assert module(torch.ones(2))[0].tolist() == [4.0, 4.0]
    assert copy.deepcopy(module)(torch.ones(2))[0].tolist() == [4.0, 4.0]


def double(x: torch.Tensor, times: int = 1) -> list[torch.Tensor]:
    return [x * 2**times]


def test_an_opaque_operator_is_an_error_that_names_it() -> None:
    opaque = Op("fxtest.opaque", (Param("x", ParamKind.OPERAND),), infer=lambda call: [call.operand_types[0]])
    registry.register(opaque)
    graph = parse('input %x: f32[2]\n%y = fxtest.opaque(%x) @ "model.py":41 "odd"\nreturn %y')
    with pytest.raises(EmissionError, match=r"fxtest\.opaque has no PyTorch implementation.*model\.py:41 odd"):
        emit(graph)


def test_a_dtype_that_pytorch_lacks_is_an_error() -> None:
    graph = parse("input %x: f32[2]\n%y: i4[2] = to.dtype(%x) {dtype=i4}\nreturn %y")
    with pytest.raises(EmissionError, match="i4"):
        emit(graph)


def test_empty_and_repeated_outputs() -> None:
    graph = parse("input %x: f32[2]\n%y = neg(%x)\nreturn %y, %x, %y")
    y, x, z = emit(graph)(torch.ones(2))
    assert y.tolist() == z.tolist() == [-1.0, -1.0] and x.tolist() == [1.0, 1.0]
    nothing = parse("input %x: f32[2]\nreturn")
    assert emit(nothing)(torch.ones(2)) == ()


def test_arguments_whose_names_are_keywords() -> None:
    graph = parse("""
        input %x: f32[N]
        %y = uniform(%x) {from=2.0, to=3.0}
        return %y""")
    (y,) = emit(graph)(torch.zeros(9))
    assert (y >= 2).all() and (y <= 3).all()
