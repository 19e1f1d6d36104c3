"""Run by .ci/run in a folder outside the repository: the installed wheel is complete and works."""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path

import torch
from torch import nn


def test_package_comes_from_the_wheel() -> None:
    import graphopt
    import graphopt.backends
    import graphopt.passes

    for module in (graphopt, graphopt.passes, graphopt.backends):
        assert Path(module.__file__ or "").is_relative_to(sys.prefix), module.__file__
    assert importlib.resources.files("graphopt").joinpath("py.typed").is_file()


def test_small_model_compiles() -> None:
    import graphopt

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    x = torch.randn(2, 3, 8, 8)
    for target in ("fx", "onnxruntime"):
        fast = graphopt.compile(model, (x,), target=target)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
