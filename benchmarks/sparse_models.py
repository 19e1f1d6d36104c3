"""Whole models with 90 % of their weights pruned: `sparse-lowering` against dense ONNX Runtime, with what it leaves.

Weights of linear layers and convolutions are pruned by magnitude, each layer alone; depthwise convolutions and
embeddings are not. Accuracy is no matter here. `layers` are the lowered ones, their times measured alone on the engine
of the sparse model: the rest of the model is what no sparsity makes faster (Amdahl), and `limit` is what would be left
if the lowered layers took no time.

    python benchmarks/sparse_models.py [--sparsity 0.9] [--quick] [--json FILE]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graphopt
from common import parse_args, print_table, time_interleaved, write_json
from tests.zoo.minilm import minilm


class Separable(nn.Sequential):
    """A depthwise and a pointwise convolution, as MobileNet has them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        norms = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        super().__init__(depthwise, norms[0], nn.ReLU(), pointwise, norms[1], nn.ReLU())


def mobilenet() -> nn.Module:
    """MobileNetV1 at 224×224 with random weights."""
    plan = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    plan += [(512, 512, 1)] * 5 + [(512, 1024, 2), (1024, 1024, 1)]
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))
    model = nn.Sequential(stem, *(Separable(*sizes) for sizes in plan), *head)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 96, 96))  # norms that keep the signal alive
    return model


def resnet() -> nn.Module:
    """The body of a ResNet: 3×3 convolutions of 128 to 512 channels without shortcuts, with random weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 4, 3), nn.ReLU()]
    for inputs, outputs, stride in (
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512, 512, 1),
    ):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def tokens(batch: int, length: int) -> dict[str, Tensor]:
    """What an encoder reads."""
    ids = torch.randint(1000, 20000, (batch, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@dataclass(frozen=True)
class Case:
    """A model and its inputs."""

    name: str
    make: Callable[[], nn.Module]
    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]


CASES = (
    Case("MiniLM, 1×128", minilm, (), tokens(1, 128)),
    Case("MiniLM, 8×128", minilm, (), tokens(8, 128)),
    Case("MobileNetV1, 1×224×224", mobilenet, (torch.randn(1, 3, 224, 224),), {}),
    Case("ResNet-like, 1×224×224", resnet, (torch.randn(1, 3, 224, 224),), {}),
)


def pruned(model: nn.Module, sparsity: float) -> nn.Module:
    """The model with the smallest weights of each layer set to zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and (isinstance(layer, nn.Linear) or layer.groups == 1):
            size = layer.weight.detach().abs()
            bound = size.flatten().kthvalue(max(1, int(sparsity * size.numel()))).values
            layer.weight.data[size <= bound] = 0
    return model


@dataclass(frozen=True)
class Row:
    """One model on one engine. Times in ms. layers: of those that were lowered, dense and sparse, each alone."""

    model: str
    engine: str
    onnxruntime: float
    dense: float
    sparse: float
    against_onnxruntime: float
    against_dense: float
    lowered: int
    layers_dense: float
    layers_sparse: float
    rest: float
    limit: float
    error: float
    seconds: float


def measure(case: Case, engine: str, options: Any) -> Row:
    """Compile a pruned model three times, and run each in turn."""
    torch.manual_seed(0)
    model = pruned(case.make().eval(), options.sparsity)
    compiled = {
        "onnxruntime": graphopt.compile(model, case.args, case.kwargs, target="onnxruntime"),
        "dense": graphopt.compile(model, case.args, case.kwargs, target=engine),
    }
    start = time.perf_counter()
    sparse = compiled["sparse"] = graphopt.compile(
        model, case.args, case.kwargs, target=engine, passes="default,sparse-lowering,dead-code"
    )
    seconds = time.perf_counter() - start
    calls = {name: (lambda run=run: run(*case.args, **case.kwargs)) for name, run in compiled.items()}
    times = time_interleaved(calls, rounds=2 if options.quick else 5, seconds=0.2)
    record = next(r for r in sparse.report.passes.records if r.name == "sparse-lowering")
    lowered = list(record.details.lowered.values())
    before, after = (1e3 * sum(getattr(one, name) or 0.0 for one in lowered) for name in ("before", "after"))
    expected, found = model(*case.args, **case.kwargs), calls["sparse"]()
    ms = {name: timing.ms for name, timing in times.items()}
    rest = max(ms["sparse"] - after, 0.0)
    return Row(
        case.name,
        engine,
        ms["onnxruntime"],
        ms["dense"],
        ms["sparse"],
        ms["onnxruntime"] / ms["sparse"],
        ms["dense"] / ms["sparse"],
        len(lowered),
        before,
        after,
        rest,
        ms["onnxruntime"] / max(rest, 1e-9),
        float((expected - found).abs().max() / expected.abs().max()),
        seconds,
    )


def main() -> None:
    """Print the table."""
    options = parse_args(
        __doc__,
        ("--sparsity", {"type": float, "default": 0.9, "help": "share of zeros (default: 0.9)"}),
        ("--engine", {"action": "append", "choices": ("eager", "inductor"), "help": "default: both"}),
        ("--only", {"default": "", "help": "models whose names contain this"}),
    )
    engines = options.engine or (["eager"] if options.quick else ["eager", "inductor"])
    cases = [case for case in CASES if options.only.lower() in case.name.lower()]
    with torch.no_grad():
        rows = [measure(case, engine, options) for case in cases for engine in engines]
    print_table(
        f"Models with {options.sparsity:.0%} of their weights pruned",
        (
            "model",
            "engine",
            "ONNX Runtime ms",
            "dense ms",
            "sparse ms",
            "× ONNX Runtime",
            "× dense",
            "layers",
            "layers dense ms",
            "layers sparse ms",
            "rest ms",
            "limit ×",
            "error",
            "compile s",
        ),
        [tuple(vars(row).values()) for row in rows],
    )
    write_json(options.json, "sparse_models", rows)


if __name__ == "__main__":
    main()
