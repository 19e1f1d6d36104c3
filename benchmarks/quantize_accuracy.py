"""Static int8 side by side: the same trained weights, the same calibration data, the same engine.

For each network and seed: ONNX Runtime's `quantize_static` (per tensor, its default, and per channel; signed and
unsigned activations), NNCF where it is installed, and `quantize` of this project. Figures: SQNR and Kullback-Leibler
divergence of the logits against fp32 on all held-out images, top-1, how many operators run on integers after ONNX
Runtime's fusion and how many are left in floating point, and latency against fp32, interleaved.

    python benchmarks/quantize_accuracy.py [--quick] [--json FILE] [--seeds N] [--options "rounding=gptq"]
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import graphopt
from common import onnxruntime_options, parse_args, print_table, ratio, time_interleaved, write_json
from tests.zoo.nets_cnn import InvertedResidual, conv_bn
from tests.zoo.trained import Trained, cached, mnist, trained_lenet, trained_resnet8

CALIBRATION = 256
INTEGER = ("QLinear", "QGemm", "MatMulIntegerToFloat", "ConvInteger")
MATTER = ("Conv", "FusedConv", "Gemm", "MatMul", "Add", "AveragePool", "GlobalAveragePool", "ReduceMean")
"""Operators that, left in floating point, cost a conversion."""


class MobileNet(nn.Module):
    """Inverted residuals for images of 28×28: depthwise convolutions are the hard case."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((16, 16, 1, 1), (16, 24, 2, 4), (24, 24, 1, 4), (24, 32, 2, 4), (32, 32, 1, 4))
        blocks = [InvertedResidual(inputs, outputs, stride, expand) for inputs, outputs, stride, expand in widths]
        self.features = nn.Sequential(
            *conv_bn(1, 16, 3, 2), nn.ReLU6(), *blocks, *conv_bn(32, 64, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def trained_mobilenet(seed: int = 0) -> Trained:
    """The network on MNIST, about 0.97 on the held-out images."""
    data = mnist()
    return Trained(cached("mobilenet", MobileNet, data, epochs=6, seed=seed), data)


NETWORKS: dict[str, Callable[[int], Trained]] = {
    "LeNet": trained_lenet,
    "ResNet-8": trained_resnet8,
    "MobileNet-like": trained_mobilenet,
}


@dataclass(frozen=True)
class Figures:
    """What one quantizer made of one network."""

    network: str
    seed: int
    tool: str
    sqnr: float
    divergence: float
    top1: float
    integer: int
    left: int
    against_fp32: float


class Loaded:
    """A model in ONNX Runtime, and the operators that it runs after its own fusion."""

    def __init__(self, model: bytes, threads: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime_options(threads)
            options.optimized_model_filepath = str(Path(folder) / "fused.onnx")
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self.operators = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
        self.name = self.session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> Tensor:
        parts = [self.session.run(None, {self.name: part.numpy()})[0] for part in x.split(100)]
        return torch.cat([torch.from_numpy(part) for part in parts])

    @property
    def integer(self) -> int:
        return sum(count for name, count in self.operators.items() if name.startswith(INTEGER))

    @property
    def left(self) -> int:
        return sum(self.operators[name] for name in MATTER)


def onnxruntimes(model: onnx.ModelProto, calibration: Tensor) -> Iterator[tuple[str, bytes]]:
    """ONNX Runtime's own quantizer, at four settings."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{model.graph.input[0].name: x.numpy()} for x in calibration.split(1)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder) / "plain.onnx", Path(folder) / "made.onnx"
        onnx.save(model, plain)
        for per_channel in (False, True):
            for kind in (QuantType.QInt8, QuantType.QUInt8):
                quantize_static(plain, made, Reader(), per_channel=per_channel, activation_type=kind)
                grain = "per channel" if per_channel else "per tensor"
                default = ", default" if not per_channel and kind is QuantType.QInt8 else ""
                yield f"ONNX Runtime {grain} {str(kind)[1:]}{default}", made.read_bytes()


def nncfs(model: onnx.ModelProto, calibration: Tensor) -> Iterator[tuple[str, bytes]]:
    """NNCF, if it is installed."""
    if find_spec("nncf") is None:
        return
    import nncf

    name = model.graph.input[0].name
    data = nncf.Dataset([{name: x.numpy()} for x in calibration.split(1)])
    for fast in (True, False):
        made = nncf.quantize(model, data, subset_size=len(calibration), fast_bias_correction=fast)
        yield f"NNCF{'' if fast else ', full bias correction'}", made.SerializeToString()


def ours(module: nn.Module, calibration: Tensor, options: str) -> Iterator[tuple[str, bytes]]:
    """This project's pass."""
    made = graphopt.compile(
        module,
        (calibration[:4],),
        target="onnx",
        dynamic_shapes="batch",
        passes=f"default,quantize{{{options}}},fold-constants,dead-code" if options else _PLAIN,
        calibration=calibration.split(64),
        on_failure="raise",
    )
    yield f"graphopt{f' ({options})' if options else ''}", made.to_onnx().SerializeToString()


_PLAIN = "default,quantize,fold-constants,dead-code"


def measured(network: str, seed: int, options: list[str], chosen: Any) -> list[Figures]:
    """Every quantizer on one network."""
    trained = NETWORKS[network](seed)
    calibration, images, labels = trained.data.train_images[:CALIBRATION], trained.data.images, trained.data.labels
    plain = graphopt.compile(trained.module, (calibration[:4],), target="onnx", dynamic_shapes="batch").to_onnx()
    base = Loaded(plain.SerializeToString(), chosen.threads)
    reference = base(images)
    makers = [onnxruntimes(plain, calibration), nncfs(plain, calibration)]
    makers += [ours(trained.module, calibration, option) for option in options]
    loaded = {tool: Loaded(model, chosen.threads) for maker in makers for tool, model in maker}
    one = images[:1]
    calls: dict[str, Callable[[], Any]] = {"fp32": lambda: base(one)}
    calls |= {tool: (lambda model=model: model(one)) for tool, model in loaded.items()}
    seconds = 0.05 if chosen.quick else 0.3
    timings = time_interleaved(calls, chosen.rounds, seconds)
    found = []
    for tool, model in loaded.items():
        logits = model(images)
        found.append(
            Figures(
                network,
                seed,
                tool,
                float(10 * torch.log10(reference.square().sum() / (reference - logits).square().sum())),
                divergence(reference, logits),
                float((logits.argmax(1) == labels).double().mean()),
                model.integer,
                model.left,
                ratio(timings, tool, "fp32"),
            )
        )
    return found


def divergence(reference: Tensor, logits: Tensor) -> float:
    """The mean Kullback-Leibler divergence of the predicted distributions, in nats."""
    p, q = reference.double().log_softmax(1), logits.double().log_softmax(1)
    return float((p.exp() * (p - q)).sum(1).mean())


def main() -> None:
    extra = (
        ("--seeds", {"type": int, "default": 3}),
        ("--options", {"action": "append", "default": [], "help": "options of a further run of quantize"}),
    )
    chosen = parse_args(__doc__, *extra)
    seeds = range(1 if chosen.quick else chosen.seeds)
    figures = [
        figure
        for network in NETWORKS
        for seed in seeds
        for figure in measured(network, seed, ["", *chosen.options], chosen)
    ]
    tools = list(dict.fromkeys(f.tool for f in figures))
    for network in NETWORKS:
        rows = [_row(tool, [f for f in figures if (f.network, f.tool) == (network, tool)]) for tool in tools]
        columns = ("quantizer", "SQNR dB", "KL", "top-1", "on integers", "left in float", "time / fp32")
        print_table(f"{network}, means of {len(seeds)} seeds", columns, [row for row in rows if row])
    _gains(figures)
    write_json(chosen.json, "quantize_accuracy", figures)


def _row(tool: str, found: list[Figures]) -> list[Any]:
    if not found:
        return []
    means = [statistics.fmean(getattr(f, name) for f in found) for name in ("sqnr", "divergence", "top1")]
    return [tool, *means, found[0].integer, found[0].left, statistics.median(f.against_fp32 for f in found)]


def _gains(figures: list[Figures]) -> None:
    """How far graphopt's default is above ONNX Runtime's default, and above the best of the peers, in dB."""
    mine = {(f.network, f.seed): f.sqnr for f in figures if f.tool == "graphopt"}
    default = {(f.network, f.seed): f.sqnr for f in figures if f.tool.endswith("default")}
    peers = [f for f in figures if not f.tool.startswith("graphopt")]
    best = {key: max(f.sqnr for f in peers if (f.network, f.seed) == key) for key in mine}
    over_default = statistics.fmean(mine[key] - default[key] for key in mine)
    least = min(mine[key] - best[key] for key in mine)
    print(f"over ONNX Runtime's default: {over_default:+.2f} dB in geometric mean of the ratios")
    print(f"over the best peer of each network and seed: {least:+.2f} dB at least")


if __name__ == "__main__":
    main()
