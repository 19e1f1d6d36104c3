"""Static int8 side by side: the same trained weights, the same calibration data, the same engine.

For each network and seed: ONNX Runtime's `quantize_static` (min-max, percentile and entropy calibration; per tensor, as
by default, and per channel; signed and unsigned activations), NNCF where it is installed (both presets, fast and full
bias correction; samples one by one, in batches of 64 and all at once, since its ranges depend on that), and this
project's `choose-recipe`, which compares recipes on the calibration data alone: once with the placement that ONNX
Runtime fuses, and once with pairs at inputs, as NNCF has them. (At inputs, depthwise convolutions read a scale for each
channel, as NNCF's do; the column "fused" counts what runs on integers.)

Figures: SQNR and Kullback-Leibler divergence of the logits against fp32 on all held-out data; top-1, and its difference
to fp32 with a paired 95 % interval; how many operators read quantized operands, and how many run on integers after ONNX
Runtime's fusion. Peers get the file that suits them better: this project's fp32 file, or PyTorch's, in which attention
is written out. Each is compared with this project's file of the same placement. The verdict: above ONNX Runtime's
default in the geometric mean, above the best settings of each peer, and top-1 beside that of the best peer, paired.

    python benchmarks/quantize_accuracy.py [--quick] [--json FILE] [--seeds N] [--network NAME] [--options TEXT]
        [--peers REGEX]
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from quantize_peers import ONNXRUNTIME_DEFAULT, nncfs, onnxruntimes
from quantize_subjects import SUBJECTS, Batch, Subject
from torch import Tensor

from common import onnxruntime_options, parse_args, print_table, write_json

INTEGER = ("QLinear", "QGemm", "MatMulIntegerToFloat", "ConvInteger", "DynamicQuantize")
PRODUCTS = ("Conv", "Gemm", "MatMul")
AT_INPUTS = "graphopt (at inputs)"
QUICK = "^ONNX Runtime MinMax|^NNCF performance$"
MATTER = (*PRODUCTS, "Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean")


@dataclass(frozen=True)
class Figures:
    """What one quantizer made of one network.

    change: of top-1 against fp32; interval: half the width of its 95 % interval. products, others: operators that read
    quantized operands. integer: operators on integers after fusion. samples: held out. wrong: those of them that are
    classified so. recipe: what was chosen. seconds: that quantizing took. failed: the error.
    """

    network: str
    seed: int
    tool: str
    sqnr: float = float("nan")
    divergence: float = float("nan")
    top1: float = float("nan")
    change: float = float("nan")
    interval: float = float("nan")
    products: int = 0
    others: int = 0
    integer: int = 0
    samples: int = 0
    wrong: tuple[int, ...] = ()
    recipe: str = ""
    seconds: float = 0.0
    failed: str = ""


class Loaded:
    """A model in ONNX Runtime, and the operators that it runs after its own fusion."""

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime_options(threads)
            options.optimized_model_filepath = str(Path(folder) / "fused.onnx")
            data = model.SerializeToString()
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            fused = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
        self.integer = sum(count for name, count in fused.items() if name.startswith(INTEGER))

    def __call__(self, batches: list[Batch]) -> Tensor:
        parts = [self.session.run(None, {name: x.numpy() for name, x in batch.items()})[0] for batch in batches]
        return torch.cat([torch.from_numpy(part) for part in parts])


def quantized_operators(model: onnx.ModelProto) -> Counter[str]:
    """Operators all of whose first two operands come out of a quantized tensor, by type."""
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    found: Counter[str] = Counter()
    for node in model.graph.node:
        read = [name for name in node.input[:2] if name and name not in stored]
        moved = {"DequantizeLinear", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "Slice"}
        if read and node.op_type in MATTER and all(made.get(name) in moved for name in read):
            found[node.op_type] += 1
    return found


def bases(subject: Subject) -> dict[str, onnx.ModelProto]:
    """The fp32 files that peers start from: this project's, and for transformers PyTorch's, too."""
    found = {"": subject.compile().to_onnx()}
    if subject.transformer:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "exported.onnx"
            torch.onnx.export(
                subject.model,
                (),
                path,
                kwargs=subject.example,
                dynamo=True,
                dynamic_shapes=subject.shapes,
                external_data=False,
                verbose=False,
            )
            found[", attention written out"] = onnx.load(path)
    return found


def made(
    subject: Subject, plain: dict[str, onnx.ModelProto], options: list[str], peers: re.Pattern[str]
) -> Iterator[tuple[str, Any, str]]:
    """Every quantizer's name and file, or why there is none; and the recipe that was chosen."""
    asked = "choose-recipe{quantizer={%s}}"
    recipes = {"graphopt": asked % "", AT_INPUTS: asked % "profile=openvino"}
    for title, recipe in (recipes | {option: f"quantize{{{option}}}" for option in options}).items():
        found = subject.compile(passes=f"default,{recipe},fold-constants,dead-code")
        kept = [trial.recipe for trial in found.report.quantization.trials if trial.chosen]
        yield title, found.to_onnx(), "".join(kept)
    for base, model in plain.items():
        for tool, file in onnxruntimes(model, subject.calibration, partial(_wanted, peers, after=base)):
            yield tool + base, file, ""
        for size, samples in subject.batched.items():
            wanted = partial(_wanted, peers, after=size + base)
            for tool, file in nncfs(model, samples, subject.transformer, wanted):
                yield tool + size + base, file, ""


def _wanted(peers: re.Pattern[str], name: str, after: str = "") -> bool:
    return name + after == ONNXRUNTIME_DEFAULT or peers.search(name + after) is not None


def measured(network: str, seed: int, options: list[str], chosen: Any) -> Iterator[Figures]:
    """Every quantizer on one network."""
    subject = SUBJECTS[network](seed)
    plain = bases(subject)
    reference = Loaded(plain[""], chosen.threads)(subject.held_out)
    right = reference.argmax(1) == subject.labels
    start = time.perf_counter()
    for tool, file, recipe in made(subject, plain, options, re.compile(QUICK if chosen.quick else chosen.peers)):
        seconds, start = time.perf_counter() - start, time.perf_counter()
        if isinstance(file, str):
            yield Figures(network, seed, tool, failed=file)
            continue
        model, counts = Loaded(file, chosen.threads), quantized_operators(file)
        logits = model(subject.held_out)
        hits = logits.argmax(1) == subject.labels
        difference = hits.double() - right.double()
        products = sum(counts[name] for name in PRODUCTS)
        yield Figures(
            network,
            seed,
            tool,
            float(10 * torch.log10(reference.square().sum() / (reference - logits).square().sum())),
            divergence(reference, logits),
            float(hits.double().mean()),
            float(difference.mean()),
            1.96 * float(difference.std()) / len(difference) ** 0.5,
            products,
            counts.total() - products,
            model.integer,
            len(hits),
            tuple((~hits).nonzero().flatten().tolist()),
            recipe,
            seconds,
        )
        start = time.perf_counter()


def divergence(reference: Tensor, logits: Tensor) -> float:
    """The mean Kullback-Leibler divergence of the predicted distributions, in nats."""
    p, q = reference.double().log_softmax(1), logits.double().log_softmax(1)
    return float((p.exp() * (p - q)).sum(1).mean())


def main() -> None:
    extra = (
        ("--seeds", {"type": int, "default": 3}),
        ("--network", {"action": "append", "choices": list(SUBJECTS), "help": "only this one"}),
        ("--first", {"type": int, "default": 0, "help": "the first seed"}),
        ("--peers", {"default": "", "help": "only peers whose settings match this regular expression"}),
        ("--options", {"action": "append", "default": [], "help": "options of a further run of quantize"}),
    )
    chosen = parse_args(__doc__, *extra)
    seeds = range(chosen.first, chosen.first + (1 if chosen.quick else chosen.seeds))
    figures: list[Figures] = []
    for network in chosen.network or SUBJECTS:
        for seed in seeds:
            for one in measured(network, seed, chosen.options, chosen):
                print(f"{network} {seed} {one.tool}: {one.sqnr:.2f} dB {one.failed}", file=sys.stderr, flush=True)
                figures.append(one)
        own = [f for f in figures if f.network == network]
        rows = [_row(tool, [f for f in own if f.tool == tool]) for tool in dict.fromkeys(f.tool for f in own)]
        columns = ("quantizer", "SQNR dB", "KL", "top-1", "against fp32", "±", "products", "others", "fused", "s")
        print_table(f"{network}, means of {len(seeds)} seeds", columns, rows)
    print_table("graphopt against its peers", ("network", *_COLUMNS), list(_compared(figures)))
    write_json(chosen.json, "quantize_accuracy", figures)


def _row(tool: str, found: list[Figures]) -> list[Any]:
    failed = [f.failed for f in found if f.failed]
    if failed:
        return [f"{tool}: {failed[0][:60]}", *[float("nan")] * 5, 0, 0, 0, 0.0]
    fields = ("sqnr", "divergence", "top1", "change")
    means = [statistics.fmean(getattr(f, name) for f in found) for name in fields]
    interval = sum(f.interval**2 for f in found) ** 0.5 / len(found)
    seconds = statistics.fmean(f.seconds for f in found)
    return [tool, *means, interval, found[0].products, found[0].others, found[0].integer, seconds]


_COLUMNS = (
    "over the default, dB",
    "over the best, dB, least",
    "KL / best, most",
    "top-1 beside it, worst",
    "±",
    "best peer",
    "its products",
    "own",
)


def _compared(figures: list[Figures]) -> Iterator[list[Any]]:
    """For each network: above ONNX Runtime's default (mean of seeds), beside the best peers (the worst of seeds)."""
    gains = []
    for network in dict.fromkeys(f.network for f in figures):
        found = [f for f in figures if f.network == network and not f.failed]
        pairs = [_beside(found, seed) for seed in dict.fromkeys(f.seed for f in found)]
        over = [_own(found, f).sqnr - f.sqnr for f in found if f.tool == ONNXRUNTIME_DEFAULT]
        gains += over
        mine, best = min(pairs, key=lambda pair: pair[0].sqnr - pair[1].sqnr)
        yield [
            network,
            statistics.fmean(over),
            mine.sqnr - best.sqnr,
            max(_own(found, f).divergence / f.divergence for f in found if _is_peer(f)),
            *min((_paired(mine, best) for mine, best in pairs), key=lambda change: change[0] + change[1]),
            best.tool,
            f"{best.products} + {best.others}",
            f"{mine.products} + {mine.others}",
        ]
    yield ["geometric mean", statistics.fmean(gains), None, None, None, None, "", "", ""]


def _beside(figures: list[Figures], seed: int) -> tuple[Figures, Figures]:
    """Of a seed: the peer that comes nearest to this project's file of the same placement, or is above; and that."""
    peers = [f for f in figures if f.seed == seed and _is_peer(f)]
    return min(((_own(figures, f), f) for f in peers), key=lambda pair: pair[0].sqnr - pair[1].sqnr)


def _is_peer(figures: Figures) -> bool:
    return figures.tool.startswith(("ONNX Runtime", "NNCF"))


def _own(figures: list[Figures], peer: Figures) -> Figures:
    """This project's file with the placement of a peer's."""
    tool = AT_INPUTS if peer.tool.startswith("NNCF") else "graphopt"
    return next(f for f in figures if f.tool == tool and f.seed == peer.seed)


def _paired(mine: Figures, best: Figures) -> tuple[float, float]:
    """How much higher top-1 is than the peer's, and half the width of the 95 % interval of that difference."""
    won, lost = (len(set(a) - set(b)) for a, b in ((best.wrong, mine.wrong), (mine.wrong, best.wrong)))
    mean = (won - lost) / mine.samples
    return mean, 1.96 * (((won + lost) / mine.samples - mean**2) / mine.samples) ** 0.5


if __name__ == "__main__":
    main()
