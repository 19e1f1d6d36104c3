"""Masks become part of their weights, bit for bit; and those of `torch.nn.utils.prune` with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import graphopt
from graphopt.passes.fold_masks import FoldMasks


def test_weight_and_mask_become_one(check) -> None:
    check(
        FoldMasks(),
        """
        input %x: f32[N, 2]
        parameter %w: f32[2, 2] requires_grad = ((1.0, -2.0), (3.0, 4.0))
        buffer %m: f32[2, 2] = ((1.0, 0.0), (0.0, 1.0))
        %p = aten.mul.Tensor(%m, %w)
        %y = aten.linear(%x, %p)
        return %y""",
        """
        input %x: f32[N, 2]
        parameter %w: f32[2, 2] requires_grad = ((1.0, -0.0), (0.0, 4.0))
        %y = aten.linear(%x, %w)
        return %y""",
    )
    assert check.result.notes == ["w: 50.0% zeros"]


@pytest.mark.parametrize(
    "mask",
    ["buffer %m: f32[2] = (1.0, 0.5)", "parameter %m: f32[2] = (1.0, 0.0)", "buffer %m: f32[2, 1] = ((1.0,), (0.0,))"],
    ids=["not of zeros and ones", "a parameter", "widens the weight"],
)
def test_what_is_no_mask_stays(check, mask: str) -> None:
    check(
        FoldMasks(),
        f"""
        input %x: f32[2]
        parameter %w: f32[2] = (1.0, 2.0)
        {mask}
        %p = aten.mul.Tensor(%w, %m)
        %y = aten.add.Tensor(%x, %p)
        return %y""",
    )


def test_mask_that_the_graph_updates_stays(check) -> None:
    check(
        FoldMasks(),
        """
        input %x: f32[2]
        parameter %w: f32[2] = (1.0, 2.0)
        buffer %m: f32[2] = (1.0, 0.0)
        %p = aten.mul.Tensor(%w, %m)
        %y = aten.add.Tensor(%x, %p)
        %n = aten.neg(%m)
        return %y
        update "m" = %n""",
    )


def test_weight_that_is_read_without_its_mask_too(check) -> None:
    check(
        FoldMasks(),
        """
        input %x: f32[2]
        parameter %w: f32[2] = (1.0, 2.0)
        constant %m: f32[2] = (1.0, 0.0)
        %p = aten.mul.Tensor(%w, %m)
        %y = aten.add.Tensor(%x, %p)
        %z = aten.add.Tensor(%y, %w)
        return %z""",
        """
        input %x: f32[2]
        parameter %w: f32[2] = (1.0, 2.0)
        parameter %w_1: f32[2] names none = (1.0, 0.0)
        %y = aten.add.Tensor(%x, %w_1)
        %z = aten.add.Tensor(%y, %w)
        return %z""",
    )


class Net(nn.Module):
    """A layer of each kind that scripts prune."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.fc = nn.Linear(5, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.fc(self.lstm(y)[0])


def pruned(*, lstm: bool) -> Net:
    """Every method of `torch.nn.utils.prune`, still parametrized: hooks multiply the masks at each call."""
    torch.manual_seed(0)
    net = Net()
    prune.random_unstructured(net.conv, "weight", 0.5)
    prune.l1_unstructured(net.conv, "bias", 2)
    prune.ln_structured(net.conv, "weight", 0.34, n=2, dim=0)  # a second mask on the first
    prune.custom_from_mask(net.fc, "weight", torch.arange(40).reshape(8, 5) % 3 != 0)
    prune.random_structured(net.fc, "weight", 0.25, dim=1)
    prune.identity(net.fc, "bias")
    if lstm:
        prune.l1_unstructured(net.lstm, "weight_hh_l0", 0.5)
    return net.eval()


@pytest.mark.parametrize("target", ["onnxruntime", "eager"])
@pytest.mark.parametrize("lstm", [False, True])
def test_models_of_torch_prune(target: str, lstm: bool) -> None:
    net, x = pruned(lstm=lstm), torch.randn(2, 1, 6, 6)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fast = graphopt.compile(net, (x,), target=target, on_failure="raise")
    torch.testing.assert_close(fast(x), net(x), atol=1e-6, rtol=1e-5)
    assert not [node for node in fast.graph if node.op.base == "aten.mul"]
    assert not any("_orig" in name or "_mask" in name for name in fast.state_dict())
    for module, name in ((net.conv, "conv.weight"), (net.fc, "fc.weight"), (net.fc, "fc.bias")):
        assert torch.equal(fast.state_dict()[name], getattr(module, name.split(".")[1]))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_finalize_is_what_prune_remove_does() -> None:
    net, x = pruned(lstm=False), torch.randn(2, 1, 6, 6)
    model = graphopt.compile(net, (x,), target="fx", on_failure="raise")
    assert sorted(model.state_dict()) == sorted(net.state_dict())  # trained on with their masks
    expected = model(x)
    assert model.finalize() is model
    for module, name in ((net.conv, "weight"), (net.conv, "bias"), (net.fc, "weight"), (net.fc, "bias")):
        prune.remove(module, name)
    assert sorted(model.state_dict()) == sorted(net.state_dict())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(model(x), expected)
    assert not any("mask" in name for name, _ in model.named_buffers())
