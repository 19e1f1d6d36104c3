"""tensorly-torch beside: factorized layers made by hand of the same layers, at the same share of parameters."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

import graphopt
from common import time_interleaved

MEMORY = 10 << 30
"""Bytes that the process may take."""

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
    rows = [
        _row(name, "graphopt", method, layer, partial(_ours, layer, method, calibration, share), held_out)
        for method in OURS[kind]
    ]
    if has_peer():
        # Some of its contractions ask for hundreds of gigabytes; that is to be an error, not the end of the process.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
        rows += [
            _row(name, "tensorly-torch", f"{how}, {done}", layer, partial(_peer, layer, how, done, share), held_out)
            for how in FACTORIZATIONS[kind]
            for done in ("factorized", "reconstructed")
        ]
    return rows


def _row(name: str, tool: str, method: str, layer: nn.Module, make: Callable[[], nn.Module], x: Tensor) -> Row:
    try:
        model = make()
        with torch.no_grad():
            wanted, found = layer(x), model(x)
            times = time_interleaved({"before": lambda: layer(x), "after": lambda: model(x)}, 3, 0.1)
    except Exception as error:  # a failure of any kind is a row of the table
        return Row(name, tool, method, failed=f"{type(error).__name__}: {error}".splitlines()[0][:90])
    return Row(
        name,
        tool,
        method,
        float((found - wanted).norm() / wanted.norm()),
        sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in layer.parameters()),
        times["after"].ms,
        times["before"].ms,
    )


def _ours(layer: nn.Module, method: str, calibration: Tensor, share: float) -> nn.Module:
    return graphopt.compile(
        layer,
        (calibration[:2],),
        target="fx",
        dynamic_shapes="batch",
        passes=f"decompose{{method={method}, parameters={share}}}",
        calibration=list(calibration.split(max(1, len(calibration) // 8))),
    )


def _peer(layer: nn.Module, how: str, done: str, share: float) -> nn.Module:
    from tltorch import FactorizedConv, FactorizedLinear

    original = copy.deepcopy(layer)
    if isinstance(layer, nn.Conv2d):
        return FactorizedConv.from_conv(original, rank=share, factorization=how, implementation=done).eval()
    options = {"rank": share, "factorization": how, "implementation": done, "n_tensorized_modes": 2}
    return FactorizedLinear.from_linear(original, **options).eval()
