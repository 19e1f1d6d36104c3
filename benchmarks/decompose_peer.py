"""tensorly-torch beside: factorized layers made by hand of the same layers, at the same share of parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

import graphopt
from common import time_interleaved

FACTORIZATIONS = {"conv": ("tucker", "cp", "tt"), "linear": ("tucker", "cp", "blocktt")}
OURS = {"conv": ("svd", "tucker", "cp", "tensor-train", "spatial"), "linear": ("svd",)}


@dataclass(frozen=True)
class Row:
    """One layer by one tool. error: relative, of its output. share: of the parameters. milliseconds: eager. failed: why
    there are no figures."""

    layer: str
    tool: str
    method: str
    error: float = float("nan")
    share: float = float("nan")
    milliseconds: float = float("nan")
    before: float = float("nan")
    failed: str = ""


def has_peer() -> bool:
    """Whether tensorly-torch is installed."""
    return find_spec("tltorch") is not None


def compare(name: str, layer: nn.Module, calibration: Tensor, held_out: Tensor, share: float) -> list[Row]:
    """All methods of both tools on one layer, with what it reads."""
    kind = "conv" if isinstance(layer, nn.Conv2d) else "linear"
    made: list[tuple[str, str, nn.Module | str]] = [
        ("graphopt", method, _ours(layer, method, calibration, share)) for method in OURS[kind]
    ]
    if has_peer():
        made += [("tensorly-torch", how, _peer(layer, how, share)) for how in FACTORIZATIONS[kind]]
    return list(_rows(name, layer, made, held_out))


def _rows(name: str, layer: nn.Module, made: list[tuple[str, str, nn.Module | str]], x: Tensor) -> Iterator[Row]:
    whole = sum(p.numel() for p in layer.parameters())
    with torch.no_grad():
        wanted = layer(x)
        for tool, method, model in made:
            if isinstance(model, str):
                yield Row(name, tool, method, failed=model)
                continue
            found = model(x)
            times = time_interleaved({"before": lambda: layer(x), "after": lambda m=model: m(x)}, 3, 0.1)
            yield Row(
                name,
                tool,
                method,
                float((found - wanted).norm() / wanted.norm()),
                sum(p.numel() for p in model.parameters()) / whole,
                times["after"].ms,
                times["before"].ms,
            )


def _ours(layer: nn.Module, method: str, calibration: Tensor, share: float) -> nn.Module | str:
    passes = f"decompose{{method={method}, parameters={share}}}"
    data = list(calibration.split(max(1, len(calibration) // 8)))
    try:
        return graphopt.compile(
            layer, (calibration[:2],), target="fx", dynamic_shapes="batch", passes=passes, calibration=data
        )
    except graphopt.GraphOptError as error:
        return str(error).splitlines()[0]


def _peer(layer: nn.Module, how: str, share: float) -> nn.Module | str:
    from tltorch import FactorizedConv, FactorizedLinear

    original = copy.deepcopy(layer)
    try:
        if isinstance(layer, nn.Conv2d):
            return FactorizedConv.from_conv(original, rank=share, factorization=how, implementation="factorized").eval()
        return FactorizedLinear.from_linear(
            original, rank=share, factorization=how, implementation="factorized", n_tensorized_modes=2
        ).eval()
    except Exception as error:  # a peer's failure of any kind is a row of the table
        return f"{type(error).__name__}: {error}".splitlines()[0][:100]
