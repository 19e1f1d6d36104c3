"""Accuracy against multiply-adds: LeNet on MNIST and ResNet-8 on digits, pruned and fine-tuned, over three seeds.

Two parts. The first prunes each network to a quarter of its multiply-adds and fine-tunes for under a minute with the
unpruned network as teacher: the mean of the seeds is to stay within half a point of the original on all held-out
images. The second draws the curve for each criterion, beside Torch-Pruning's where that is installed, with the same
networks, data, budgets of multiply-adds (counted by one counter) and short fine-tuning.

    python benchmarks/prune_accuracy.py [--part quarter|curve] [--quick] [--json FILE] [--seeds N]
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from common import parse_args, print_table, write_json
from graphopt.analysis import CostModel
from tests.zoo.trained import Trained, accuracy, trained_lenet, trained_resnet8

KEPT = (0.5, 0.25, 0.125)
"""The shares of multiply-adds that the curve keeps."""
CRITERIA = ("l1", "l2", "batch-norm-scale", "fpgm", "taylor", "fisher", "apoz", "mean-activation", "wanda", "random")
PEERS = ("magnitude", "batch-norm-scale", "fpgm", "taylor", "random")
WITH_LOSS = ("taylor", "fisher")
BATCHES = 8
"""Batches of training data that criteria may look at."""


@dataclass(frozen=True)
class Subject:
    """A network and how it is fine-tuned. epochs: in the first part. short: for the curve."""

    name: str
    trained: Callable[[int], Trained]
    epochs: int
    short: int
    head: str


SUBJECTS = (
    Subject("LeNet on MNIST", trained_lenet, epochs=15, short=4, head="fc3"),
    Subject("ResNet-8 on digits", trained_resnet8, epochs=60, short=15, head="head"),
)


@dataclass(frozen=True)
class Shuffled:
    """Batches of 64 in a new order each time."""

    images: Tensor
    labels: Tensor
    size: int = 64

    def __len__(self) -> int:
        return len(self.labels) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.labels)).split(self.size)[: len(self)]:
            yield self.images[rows], self.labels[rows]


@dataclass(frozen=True)
class Outcome:
    """One pruned network. share: of the original's multiply-adds. before, after: accuracy, around fine-tuning."""

    subject: str
    tool: str
    criterion: str
    kept: float
    seed: int
    share: float
    original: float
    before: float
    after: float
    seconds: float


def macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds of one image, by the cost model, whoever pruned."""
    return CostModel({}).graph(graphopt.trace(model, (images[:1],))).macs


def ours(trained: Trained, criterion: str, kept: float) -> nn.Module:
    """Pruned by graphopt: all channels ranked together."""
    data = trained.data
    calibration = list(zip(data.train_images.split(64)[:BATCHES], data.train_labels.split(64)[:BATCHES]))
    loss = {"loss": "cross-entropy"} if criterion in WITH_LOSS else {}
    return graphopt.prune(
        trained.module,
        (data.images[:4],),
        dynamic_shapes="batch",
        calibration=calibration,
        macs=kept,
        criterion=criterion,
        scope="global",
        **loss,
    )


def peer(trained: Trained, criterion: str, kept: float, head: str) -> nn.Module:
    """Pruned by Torch-Pruning: all channels ranked together, its ratio found by bisection."""
    whole = macs(trained.module, trained.data.images)
    low, high, best = 0.0, 1.0, None
    for _ in range(10):
        middle = (low + high) / 2
        found = peer_at(trained, criterion, middle, head)
        if macs(found, trained.data.images) <= kept * whole:
            high, best = middle, found
        else:
            low = middle
    assert best is not None
    return best


def peer_at(trained: Trained, criterion: str, ratio: float, head: str) -> nn.Module:
    import torch_pruning as tp

    importance = {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "batch-norm-scale": lambda: tp.importance.BNScaleImportance(),
        "fpgm": lambda: tp.importance.FPGMImportance(),
        "taylor": lambda: tp.importance.GroupTaylorImportance(),
        "random": lambda: tp.importance.RandomImportance(),
    }[criterion]()
    model, data = copy.deepcopy(trained.module).eval(), trained.data
    pruner = tp.pruner.BasePruner(
        model,
        data.images[:4],
        importance=importance,
        pruning_ratio=ratio,
        global_pruning=True,
        ignored_layers=[model.get_submodule(head)],
    )
    if criterion == "taylor":
        rows = 64 * BATCHES
        F.cross_entropy(model(data.train_images[:rows]), data.train_labels[:rows]).backward()
    pruner.step()
    model.zero_grad()
    return model


def run(
    subject: Subject, tool: str, criterion: str, kept: float, seed: int, epochs: int, prune: Callable[[], nn.Module]
) -> Outcome:
    """Prune, fine-tune and evaluate."""
    trained = subject.trained(seed)
    data = trained.data
    torch.manual_seed(seed)
    model = prune()
    before = accuracy(model, data)
    start = time.perf_counter()
    graphopt.finetune(
        model,
        Shuffled(data.train_images, data.train_labels),
        F.cross_entropy,
        epochs=epochs,
        lr=4e-3,
        schedule="one-cycle",
        teacher=trained.module,
    )
    seconds = time.perf_counter() - start
    share = macs(model, data.images) / macs(trained.module, data.images)
    after = accuracy(model, data)
    print(f"{subject.name}, {tool}, {criterion}, {kept:.3g}, seed {seed}: {before:.3f}, {after:.3f}", file=sys.stderr)
    return Outcome(subject.name, tool, criterion, kept, seed, share, trained.accuracy, before, after, seconds)


def quarter(seeds: int, epochs: float) -> list[Outcome]:
    """The first part: four times fewer multiply-adds."""
    found = []
    for subject in SUBJECTS:
        count = max(1, round(subject.epochs * epochs))
        for criterion in ("l2", "taylor"):
            for seed in range(seeds):
                made = subject.trained(seed)
                found.append(
                    run(subject, "graphopt", criterion, 0.25, seed, count, lambda m=made, c=criterion: ours(m, c, 0.25))  # type: ignore[misc]
                )
    return found


def curve(seeds: int, shares: tuple[float, ...], criteria: tuple[str, ...], peers: tuple[str, ...]) -> list[Outcome]:
    """The second part: each criterion at each budget."""
    found = []
    for subject in SUBJECTS:
        for seed in range(seeds):
            trained = subject.trained(seed)
            for kept in shares:
                for criterion in criteria:
                    job = lambda c=criterion, k=kept, t=trained: ours(t, c, k)  # noqa: E731
                    found.append(run(subject, "graphopt", criterion, kept, seed, subject.short, job))
                for criterion in peers:
                    job = lambda c=criterion, k=kept, t=trained: peer(t, c, k, subject.head)  # noqa: B023, E731
                    found.append(run(subject, "Torch-Pruning", criterion, kept, seed, subject.short, job))
    return found


def has_peer() -> bool:
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        return False
    return True


def points(outcomes: list[Outcome], what: str) -> float:
    return 100 * statistics.mean(getattr(outcome, what) for outcome in outcomes)


def show_quarter(outcomes: list[Outcome]) -> None:
    rows = []
    for key in dict.fromkeys((o.subject, o.criterion) for o in outcomes):
        group = [o for o in outcomes if (o.subject, o.criterion) == key]
        loss = points(group, "original") - points(group, "after")
        slowest = max(o.seconds for o in group)
        fewer = 1 / statistics.mean(o.share for o in group)
        accuracies = [points(group, what) for what in ("original", "before", "after")]
        rows.append([*key, *(f"{number:.2f}" for number in (fewer, *accuracies, loss, slowest))])
    print_table(
        "A quarter of the multiply-adds (means over seeds, accuracy in %)",
        ["network", "criterion", "MACs fewer", "original", "pruned", "fine-tuned", "loss", "fine-tuning s"],
        rows,
        "loss in points; the bar is 0.5",
    )


def show_curve(outcomes: list[Outcome], shares: tuple[float, ...]) -> None:
    for subject in dict.fromkeys(o.subject for o in outcomes):
        mine = [o for o in outcomes if o.subject == subject]
        rows = []
        for tool, criterion in dict.fromkeys((o.tool, o.criterion) for o in mine):
            cells = []
            for kept in shares:
                group = [o for o in mine if (o.tool, o.criterion, o.kept) == (tool, criterion, kept)]
                cells.append(f"{points(group, 'before'):.1f} → {points(group, 'after'):.1f}")
            rows.append([tool, criterion, *cells])
        print_table(
            f"{subject}: accuracy in % before and after a short fine-tuning (original {points(mine, 'original'):.1f})",
            ["tool", "criterion", *(f"{kept:.1%} of the MACs" for kept in shares)],
            rows,
        )


def main() -> None:
    options = parse_args(
        __doc__,
        ("--seeds", {"type": int, "default": 3, "help": "seeds (default: 3)"}),
        ("--part", {"choices": ("all", "quarter", "curve"), "default": "all", "help": "what to run (default: all)"}),
    )
    seeds = 1 if options.quick else options.seeds
    shares = (0.25,) if options.quick else KEPT
    criteria = ("l2", "taylor") if options.quick else CRITERIA
    peers = (("magnitude",) if options.quick else PEERS) if has_peer() else ()
    main_part = [] if options.part == "curve" else quarter(seeds, 0.1 if options.quick else 1.0)
    if main_part:
        show_quarter(main_part)
    curves = [] if options.part == "quarter" else curve(seeds, shares, criteria, peers)
    show_curve(curves, shares)
    if not peers:
        print("Torch-Pruning is not installed; pip install torch-pruning==1.6.1 puts it beside.")
    if main_part and not options.quick:
        check(main_part)
    write_json(options.json, "prune_accuracy", {"quarter": main_part, "curve": curves})


def check(outcomes: list[Outcome]) -> None:
    """Hold the first part to its bar."""
    for subject in SUBJECTS:
        best = min(
            points(group, "original") - points(group, "after")
            for criterion in ("l2", "taylor")
            if (group := [o for o in outcomes if (o.subject, o.criterion) == (subject.name, criterion)])
        )
        assert best <= 0.5, f"{subject.name} loses {best:.2f} points"
    assert all(o.share <= 0.25 and o.seconds < 60 for o in outcomes)


if __name__ == "__main__":
    main()
