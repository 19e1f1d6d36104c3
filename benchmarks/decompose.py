"""Low-rank decomposition: error against multiply-adds, accuracy after fine-tuning, latency, cost, and a peer beside.

curves      each method at several shares of the layers' multiply-adds, with and without data
minilm      the error of MiniLM's embeddings at equal ranks, plain against data-aware
accuracy    LeNet with half of the multiply-adds of the chosen layers, fine-tuned for under a minute, three seeds
latency     ONNX Runtime: how much of what the multiply-adds promise is had; no layer slower than it was
peer        tensorly-torch's factorized layers, made by hand, on the same layers
cost        100 layers: seconds and memory

python benchmarks/decompose.py [--part NAME] [--quick] [--json FILE] [--subject NAME]
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from decompose_cost import Cost, measure
from decompose_models import Subject, subjects
from decompose_peer import Row, compare, has_peer
from prune_accuracy import Shuffled
from torch.nn import functional as F

import graphopt
from common import parse_args, print_table, ratio, time_interleaved, write_json
from graphopt.passes.decomposition.report import DecompositionReport
from tests.zoo.trained import accuracy, trained_lenet

SHARES = (0.25, 0.5, 0.75)
PARTS = ("curves", "minilm", "accuracy", "latency", "peer", "cost")


@dataclass(frozen=True)
class Point:
    """One point of a curve. share: of the layers' multiply-adds. error: relative, of the network's output."""

    subject: str
    method: str
    data_aware: bool
    asked: float
    share: float
    error: float


@dataclass(frozen=True)
class Tuned:
    """LeNet of one seed. share: of the chosen layers' multiply-adds. accuracies: original, before and after tuning."""

    seed: int
    share: float
    original: float
    before: float
    after: float
    seconds: float


@dataclass(frozen=True)
class Latency:
    """A network in ONNX Runtime. macs: the share that is left of the model's. times: the share that is left.

    slower: layers that take longer than they did, by the measurements of the pass.
    """

    subject: str
    passes: str
    macs: float
    times: float
    decomposed: int
    left: int
    slower: int
    parameters: float

    @property
    def had(self) -> float:
        """The share of the promised saving that is had."""
        return (1 - self.times) / (1 - self.macs) if self.macs < 1 else float("nan")


def error_of(subject: Subject, model: Any, wanted: torch.Tensor) -> float:
    found = subject.call(model, subject.held_out)
    return float((found - wanted).norm() / wanted.norm())


def share_of(report: DecompositionReport) -> float:
    """What is left of the multiply-adds of the layers that were decomposed."""
    before, after = (sum(layer.macs[i] for layer in report.layers) for i in (0, 1))
    return after / before


def curves(all_: list[Subject], shares: tuple[float, ...]) -> list[Point]:
    found = []
    for subject in (one for one in all_ if one.trained):
        wanted = subject.call(subject.module, subject.held_out)
        for method in (*subject.methods, *(("auto",) if len(subject.methods) > 1 else ())):
            for share in shares:
                for aware in (False, True):
                    how = f"method={method}, ratio={share}, data_aware={str(aware).lower()}, multiple=1"
                    model = subject.compile(subject.decompose(how))
                    report = model.report.decomposition
                    point = Point(
                        subject.name, method, aware, share, share_of(report), error_of(subject, model, wanted)
                    )
                    found.append(point)
                    print(point, file=sys.stderr)
    return found


def minilm(subject: Subject, shares: tuple[float, ...]) -> list[Point]:
    """The SVD of all layers with equal ranks: what is kept of the multiply-adds of the smallest layers."""
    wanted = subject.call(subject.module, subject.held_out)
    found = []
    for share in shares:
        for aware in (False, True):
            model = subject.compile(subject.decompose(f"ratio={share}, data_aware={str(aware).lower()}"))
            report = model.report.decomposition
            found.append(Point(subject.name, "svd", aware, share, share_of(report), error_of(subject, model, wanted)))
            print(found[-1], file=sys.stderr)
    return found


def tuned(seed: int, epochs: int) -> Tuned:
    trained = trained_lenet(seed)
    data = trained.data
    torch.manual_seed(seed)
    model = graphopt.compile(
        trained.module,
        (data.images[:4],),
        target="fx",
        dynamic_shapes="batch",
        passes='decompose{method=auto, ratio=0.5, layers=["conv*", "fc1*", "fc2*"]}',
        calibration=list(data.train_images[:1024].split(128)),
    )
    share = share_of(model.report.decomposition)
    before = accuracy(model, data)
    start = time.perf_counter()
    loader = Shuffled(data.train_images, data.train_labels)
    options = {"lr": 2e-3, "schedule": "one-cycle", "teacher": trained.module, "progress": False}
    graphopt.finetune(model, loader, F.cross_entropy, epochs=epochs, **options)
    seconds = time.perf_counter() - start
    return Tuned(seed, share, trained.accuracy, before, accuracy(model, data), seconds)


def latency(subject: Subject, how: str, rounds: int) -> Latency | str:
    """One network, its layers measured at the sizes that it is timed at; or why it cannot be had."""
    given = subject.held_out if isinstance(subject.held_out, dict) else subject.held_out[:64]
    sized = replace(subject, example=given)
    before = sized.compile("default", "onnxruntime")
    try:
        after = sized.compile(f"{sized.decompose(how)},default", "onnxruntime")
        report = after.report.decomposition
    except graphopt.GraphOptError as error:
        return str(error)
    calls = {"before": lambda: subject.call(before, given), "after": lambda: subject.call(after, given)}
    timings = time_interleaved(calls, rounds, 1.0)
    slower = sum(1 for one in report.layers if one.milliseconds and one.milliseconds[1] >= one.milliseconds[0])
    return Latency(
        subject.name,
        how,
        report.macs[1] / report.macs[0],
        ratio(timings, "after", "before"),
        len(report.layers),
        len(report.left),
        slower,
        report.parameters[1] / report.parameters[0],
    )


def peers(all_: list[Subject], share: float) -> list[Row]:
    """Layers of trained networks, on what they read."""
    picks = {"MiniLM": ("encoder.encoder.layer.2.intermediate.dense",), "LeNet": ("conv2", "fc1")}
    found = []
    for subject in all_:
        for name in picks.get(subject.name, ()):
            layer = subject.module.get_submodule(name)
            seen: list[torch.Tensor] = []
            hook = layer.register_forward_hook(
                lambda _, given, __, seen=seen: seen.append(
                    given[0].flatten(0, -2) if given[0].dim() == 3 else given[0]
                )
            )
            for given in subject.calibration[:8]:
                subject.call(subject.module, given)
            inputs = torch.cat(seen)
            seen.clear()
            part = subject.held_out
            subject.call(subject.module, part if isinstance(part, dict) else part[:64])
            hook.remove()
            found += compare(f"{subject.name} {name}", layer, inputs, seen[0][:512], share)
    return found


def show_points(title: str, points: list[Point], shares: tuple[float, ...]) -> None:
    for subject in dict.fromkeys(point.subject for point in points):
        rows = []
        for method in dict.fromkeys(p.method for p in points if p.subject == subject):
            for aware in (False, True):
                cells = []
                for share in shares:
                    wanted = (subject, method, aware, share)
                    (one,) = [p for p in points if (p.subject, p.method, p.data_aware, p.asked) == wanted]
                    cells.append(f"{one.error:.3f} at {one.share:.2f}")
                rows.append([method, "data" if aware else "weights", *cells])
        columns = ["method", "by", *(f"{share:.0%} of the MACs" for share in shares)]
        print_table(f"{title}: {subject}", columns, rows, "relative error of the output, at the share that was kept")


def main() -> None:
    options = parse_args(
        __doc__,
        ("--part", {"choices": ("all", *PARTS), "default": "all", "help": "what to run (default: all)"}),
        ("--subject", {"help": "one network alone"}),
        ("--seeds", {"type": int, "default": 3, "help": "seeds of the accuracy (default: 3)"}),
    )
    parts = PARTS if options.part == "all" else (options.part,)
    shares = (0.5,) if options.quick else SHARES
    needs = {"minilm": ["MiniLM"], "accuracy": [], "cost": [], "peer": ["MiniLM", "LeNet"]}
    names = [options.subject] if options.subject else needs.get(options.part)
    all_ = subjects(options.quick, names)
    results: dict[str, Any] = {}
    if "curves" in parts:
        results["curves"] = curves(all_, shares)
        show_points("Error against multiply-adds", results["curves"], shares)
    if "minilm" in parts:
        found = results["minilm"] = [p for one in all_ if one.name == "MiniLM" for p in minilm(one, (*shares, 0.9))]
        show_points("Plain and data-aware SVD at equal ranks", found, (*shares, 0.9))
        check_minilm(found)
    if "accuracy" in parts:
        found = results["accuracy"] = [tuned(seed, 1 if options.quick else 15) for seed in range(options.seeds)]
        show_accuracy(found, options.quick)
    if "latency" in parts:
        how = ("ratio=0.5", "latency=0.75")
        looked = {(one.name, h): latency(one, h, options.rounds) for one in all_ if one.name != "ResNet-8" for h in how}
        found = [one for one in looked.values() if isinstance(one, Latency)]
        results["latency"] = found
        show_latency(found, options.quick)
        for (name, h), why in looked.items():
            if isinstance(why, str):
                print(f"{name}, {h}: {why}")
    if "peer" in parts:
        results["peer"] = peers(all_, 0.5)
        show_peers(results["peer"])
    if "cost" in parts:
        cost = results["cost"] = measure(256, 10) if options.quick else measure()
        show_cost(cost)
    write_json(options.json, "decompose", results)


def check_minilm(found: list[Point]) -> None:
    """Data lower the error by 30 % where half of the multiply-adds or more are kept."""
    errors = {(point.asked, point.data_aware): point.error for point in found}
    for share in sorted({point.asked for point in found}):
        lower = 1 - errors[share, True] / errors[share, False]
        print(f"MiniLM at {share:.0%} of the multiply-adds: data-aware is {lower:.0%} lower")
        assert lower >= 0.3 or share < 0.5


def show_accuracy(found: list[Tuned], quick: bool) -> None:
    rows = [
        [one.seed, one.share, *(f"{100 * x:.2f}" for x in (one.original, one.before, one.after)), one.seconds]
        for one in found
    ]
    lost = 100 * statistics.mean(one.original - one.after for one in found)
    columns = ["seed", "MACs kept", "original %", "decomposed %", "fine-tuned %", "seconds"]
    print_table("LeNet, its layers cut twofold", columns, rows, f"{lost:.2f} points lost in the mean")
    if not quick:
        assert lost <= 0.5, f"LeNet loses {lost:.2f} points"
        assert all(one.share <= 0.5 and one.seconds < 60 for one in found)


def show_latency(found: list[Latency], quick: bool) -> None:
    rows = [
        [o.subject, o.passes, o.decomposed, o.left, f"{o.macs:.2f}", f"{o.times:.2f}", f"{o.had:.0%}", o.slower]
        for o in found
    ]
    columns = ["network", "asked", "decomposed", "left", "MACs", "time", "of the promise", "slower layers"]
    print_table("ONNX Runtime (shares of the original)", columns, rows)
    if not quick:
        assert not any(one.slower for one in found)
        low = [one for one in found if one.passes.startswith("ratio") and one.macs < 0.9 and one.had < 0.6]
        assert not low, f"too little of what multiply-adds promise: {low}"


def show_peers(found: list[Row]) -> None:
    rows = [
        [o.layer, o.tool, o.method, o.failed or f"{o.error:.3f}", o.share, o.milliseconds / o.before] for o in found
    ]
    title = "Single layers at half of the parameters (eager)"
    print_table(title, ["layer", "tool", "method", "error", "parameters", "time"], rows)
    if not has_peer():
        print("tensorly-torch is not installed; pip install tensorly-torch puts it beside.")


def show_cost(cost: Cost) -> None:
    rows = [[cost.layers, cost.seconds, cost.peak / 2**20, cost.added / 2**20, cost.working]]
    columns = ["layers", "seconds", "peak MiB", "factors MiB", "working memory in layers"]
    print_table("Cost of decomposing", columns, rows)


if __name__ == "__main__":
    main()
