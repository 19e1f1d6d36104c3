"""A first custom pass: x * sigmoid(x) is SiLU, one kernel in place of two. The README shows this file."""

import torch
from torch import nn

import graphopt
from graphopt.rewrite import aten, var

x = var("x")


@graphopt.rewrite(aten.mul(x, aten.sigmoid(x)))
def fuse_silu(x):
    """silu(x) = x * sigmoid(x): the same function, rounded once less."""
    return aten.silu(x)


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


model = nn.Sequential(nn.Linear(16, 32), Swish(), nn.Linear(32, 4)).eval()
inputs = (torch.randn(8, 16),)
fast = graphopt.compile(model, inputs, target="fx", passes=[fuse_silu])
print(fast.module.code)
print(fast.report)
torch.testing.assert_close(fast(*inputs), model(*inputs))
