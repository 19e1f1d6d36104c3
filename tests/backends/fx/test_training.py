"""Train and eval: batch statistics, dropout, recurrent layers, gradients, a falling loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphopt.analysis import run_graph
from graphopt.backends.fx import emit_fx
from graphopt.ops import parse
from tests.backends.fx.helpers import emit

BATCH_NORM = """
    input %x: f32[N, 3, 5]
    parameter %"bn.weight": f32[3] requires_grad
    parameter %"bn.bias": f32[3] requires_grad
    buffer %"bn.running_mean": f32[3]
    buffer %"bn.running_var": f32[3]
    buffer %"bn.num_batches_tracked": i64[] = 4
    %y = batch_norm(%x, %"bn.weight", %"bn.bias", %"bn.running_mean", %"bn.running_var")
        {training="follow", momentum=0.2, eps=0.001, cudnn_enabled=true} @ "m.py":3 "bn"
    return %y""".replace("\n        {", " {")


def batch_norm_pair() -> tuple[torch.fx.GraphModule, nn.BatchNorm1d]:
    module = emit(parse(BATCH_NORM))
    oracle = nn.BatchNorm1d(3, eps=0.001, momentum=0.2).eval()
    oracle.load_state_dict({k.removeprefix("bn."): v for k, v in module.state_dict().items()})
    return module, oracle


def test_batch_norm_follows_the_mode() -> None:
    module, oracle = batch_norm_pair()
    generator = torch.Generator().manual_seed(0)
    for mode in (False, True, True, False):
        module.train(mode)
        oracle.train(mode)
        x = torch.randn(4, 3, 5, generator=generator)
        assert torch.equal(module(x)[0], oracle(x))
        for name, expected in oracle.state_dict().items():
            assert torch.equal(module.state_dict()[f"bn.{name}"], expected)


def test_batch_norm_in_eval_is_the_interpreters() -> None:
    graph = parse(BATCH_NORM)
    x = torch.randn(2, 3, 5)
    assert torch.equal(emit(graph)(x)[0], run_graph(graph, x)[0])


def test_one_submodule_can_be_frozen() -> None:
    module, oracle = batch_norm_pair()
    module.train()
    module.bn.eval()
    x = torch.randn(2, 3, 5)
    assert torch.equal(module(x)[0], oracle(x))


def test_batch_norm_gradients_are_eager_ones() -> None:
    module, oracle = batch_norm_pair()
    module.train()
    oracle.train()
    x = torch.randn(4, 3, 5)
    weights = torch.randn(4, 3, 5)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    (module(inputs[0])[0] * weights).sum().backward()
    (oracle(inputs[1]) * weights).sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert torch.equal(module.bn.weight.grad, oracle.weight.grad)


def test_batch_norm_without_affine_and_without_counter() -> None:
    graph = parse(
        """
        input %x: f32[N, 3]
        buffer %running_mean: f32[3]
        buffer %running_var: f32[3]
        %y = batch_norm(%x, none, none, %running_mean, %running_var)
            {training="follow", momentum=0.1, eps=0.01, cudnn_enabled=true}
        return %y""".replace("\n            {", "{")
    )
    module = emit(graph).train()
    mean, var = module.running_mean.clone(), module.running_var.clone()
    x = torch.randn(6, 3)
    assert torch.equal(module(x)[0], F.batch_norm(x, mean, var, training=True, momentum=0.1, eps=0.01))
    assert torch.equal(module.running_mean, mean)


@pytest.mark.parametrize("op", ["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"])
def test_dropout_follows_the_mode(op: str) -> None:
    module = emit(
        parse(f"""
        input %x: f32[N, 8, 4]
        %y = {op}(%x) {{p=0.5, train="follow"}} @ "m.py":3 "drop"
        return %y""")
    )
    x = torch.randn(16, 8, 4)
    assert torch.equal(module(x)[0], x)
    module.train()
    torch.manual_seed(3)
    got = module(x)[0]
    torch.manual_seed(3)
    assert torch.equal(got, getattr(torch, op)(x, 0.5, True))
    assert not torch.equal(got, x)


def test_a_module_called_twice_follows_twice() -> None:
    module = emit(
        parse("""
        input %x: f32[N, 64]
        %y = dropout(%x) {p=0.5, train="follow"} @ "m.py":3 "drop"
        %z = dropout(%y) {p=0.5, train="follow"} @ "m.py":3 "drop"
        return %z""")
    ).train()
    kept = (module(torch.ones(64, 64))[0] > 0).float().mean().item()
    assert 0.2 < kept < 0.3


def test_nothing_follows_where_nothing_is_to_be_trained() -> None:
    module = emit_fx(parse(BATCH_NORM), trainable=False)
    x = torch.randn(4, 3, 5)
    expected = module(x)
    assert torch.equal(module.train()(x), expected)
    assert not any(node.op == "call_module" for node in module.graph.nodes)


def test_fixed_flags_stay_fixed() -> None:
    module = emit(parse("input %x: f32[N]\n%y = dropout(%x) {p=0.5, train=false}\nreturn %y")).train()
    assert torch.equal(module(torch.ones(64))[0], torch.ones(64))


LSTM = """
    input %x: f32[N, 5, 3]
    parameter %"rnn.weight_ih_l0": f32[8, 3] requires_grad
    parameter %"rnn.weight_hh_l0": f32[8, 2] requires_grad
    parameter %"rnn.weight_ih_l1": f32[8, 2] requires_grad
    parameter %"rnn.weight_hh_l1": f32[8, 2] requires_grad
    %h = zeros() {size=(2, N, 2)}
    %y: f32[N, 5, 2], %a: f32[2, N, 2], %b: f32[2, N, 2] = lstm.input(
        %x, %h, %h, %"rnn.weight_ih_l0", %"rnn.weight_hh_l0", %"rnn.weight_ih_l1", %"rnn.weight_hh_l1")
        {has_biases=false, num_layers=2, dropout=0.5, train="follow", bidirectional=false, batch_first=true,
        operand_segment_sizes=(1, 2, 4)} @ "m.py":3 "rnn"
    return %y, %b""".replace("\n        ", " ")


def test_lstm_follows_the_mode() -> None:
    module = emit(parse(LSTM))
    oracle = nn.LSTM(3, 2, 2, bias=False, batch_first=True, dropout=0.5)
    oracle.load_state_dict({k.removeprefix("rnn."): v for k, v in module.state_dict().items()})
    x = torch.randn(4, 5, 3)
    for mode in (False, True):
        module.train(mode)
        oracle.train(mode)
        torch.manual_seed(0)
        got = module(x)
        torch.manual_seed(0)
        expected, (_, cell) = oracle(x)
        assert torch.equal(got[0], expected) and torch.equal(got[1], cell)


class Classifier(nn.Module):
    """The eager twin of `CLASSIFIER`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.adaptive_avg_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.fc(y.flatten(1))


CLASSIFIER = """
    input %x: f32[N, 1, 6, 6]
    parameter %conv.weight: f32[4, 1, 3, 3] requires_grad
    parameter %conv.bias: f32[4] requires_grad
    parameter %bn.weight: f32[4] requires_grad
    parameter %bn.bias: f32[4] requires_grad
    buffer %bn.running_mean: f32[4]
    buffer %bn.running_var: f32[4]
    buffer %bn.num_batches_tracked: i64[]
    parameter %fc.weight: f32[3, 16] requires_grad
    parameter %fc.bias: f32[3] requires_grad
    %a = conv2d(%x, %conv.weight, %conv.bias) {padding=(1, 1)} @ "m.py":1 "conv"
    %b = batch_norm(%a, %bn.weight, %bn.bias, %bn.running_mean, %bn.running_var)
        {training="follow", momentum=0.1, eps=1e-05, cudnn_enabled=true} @ "m.py":1 "bn"
    %c = relu(%b)
    %d = adaptive_avg_pool2d(%c) {output_size=(2, 2)}
    %e = flatten.using_ints(%d) {start_dim=1}
    %f = linear(%e, %fc.weight, %fc.bias) @ "m.py":1 "fc"
    return %f""".replace("\n        {", " {")


def train(model: nn.Module, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.train()
    losses = []
    x = torch.randn(32, 1, 6, 6, generator=generator)
    labels = (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 0).long()
    for _ in range(steps):
        output: Any = model(x)
        loss = F.cross_entropy(output[0] if isinstance(output, tuple) else output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_is_eager_training_bit_for_bit() -> None:
    eager = Classifier()
    module = emit(parse(CLASSIFIER, eager.state_dict()))
    assert list(module.state_dict()) == list(eager.state_dict())
    losses = train(module, 30)
    assert losses == train(eager, 30)
    assert losses[-1] < 0.7 * losses[0]
    x = torch.randn(5, 1, 6, 6)
    assert torch.equal(module.eval()(x)[0], eager.eval()(x))


def test_the_result_loads_back_into_the_original() -> None:
    eager = Classifier()
    module = emit(parse(CLASSIFIER, eager.state_dict()))
    train(module, 3)
    eager.load_state_dict(copy.deepcopy(module.state_dict()))
    x = torch.randn(5, 1, 6, 6)
    assert torch.equal(module.eval()(x)[0], eager.eval()(x))
