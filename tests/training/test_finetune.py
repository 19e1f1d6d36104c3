"""The training loop against one written by hand, and all that can go wrong in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from graphopt.batch_norm import reestimate_batch_norm
from graphopt.distillation import Distillation
from graphopt.errors import GraphOptError, InputError, UnknownNameError

torch.manual_seed(0)
X = torch.randn(40, 6)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 1).long()
LOADER = list(zip(X.split(8), Y.split(8)))


def mlp(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), *([nn.BatchNorm1d(16)] if norm else []), nn.ReLU(), nn.Linear(16, 3))


def compiled(model: nn.Module, passes: str = "none") -> graphopt.CompiledModel:
    return graphopt.compile(model, (X[:8],), target="fx", dynamic_shapes="batch", passes=passes, on_failure="raise")


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("emitted", [False, True], ids=["module", "compiled"])
def test_equals_the_loop_by_hand(emitted: bool) -> None:
    by_hand = mlp(norm=True)
    model: nn.Module = compiled(mlp(norm=True)) if emitted else mlp(norm=True)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    by_hand.train()
    losses = []
    for _ in range(3):
        total = 0.0
        for x, y in LOADER:
            loss = F.cross_entropy(by_hand(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(LOADER))
    history = graphopt.finetune(
        model,
        LOADER,
        F.cross_entropy,
        epochs=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        schedule="constant",
        reestimate=False,
    )
    assert history.losses == pytest.approx(losses, rel=1e-4)
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)
    assert not model.training and history.best == 3 and not history.stopped_early
    assert len(json.loads(json.dumps(history.to_dict()))["epochs"]) == 3


def test_schedules_scale_the_rate() -> None:
    seen: list[float] = []
    for name, first in (("cosine", 1.0), ("one-cycle", 0.04), ("linear", 1.0)):
        optimizer = torch.optim.SGD((model := mlp()).parameters(), lr=0.5)
        history = graphopt.finetune(model, LOADER, F.cross_entropy, epochs=4, optimizer=optimizer, schedule=name)
        assert history.epochs[-1].rate < 0.1 * 0.5
        assert graphopt.training_step.SCHEDULES[name](0.0) == pytest.approx(first)
    graphopt.finetune(mlp(), LOADER, F.cross_entropy, epochs=2, schedule=lambda progress: seen.append(progress) or 1.0)
    assert seen == pytest.approx([i / 10 for i in range(10)])


def test_masks_hold_while_it_trains_and_fold_at_the_end() -> None:
    model = mlp()
    pruned = compiled(model, "prune-weights{sparsity=0.75}")
    masks = {n: m.clone() for n, m in pruned.state_dict().items() if n.endswith("_mask")}
    decay = lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)  # noqa: E731
    graphopt.finetune(pruned, LOADER, F.cross_entropy, epochs=5, optimizer=decay)
    assert same(masks, {n: m for n, m in pruned.state_dict().items() if n.endswith("_mask")})
    # Even weights that are written behind a mask do not show.
    with torch.no_grad():
        pruned.get_parameter("0.weight").add_(1.0)
    expected = pruned(X)
    pruned.finalize()
    assert torch.equal(pruned(X), expected)
    for index in ("0", "2"):
        weight = pruned.state_dict()[f"{index}.weight"]
        assert not weight[masks[f"{index}.weight_mask"] == 0].any()
    graphopt.finetune(pruned, LOADER, F.cross_entropy)  # and it trains on


def test_inputs_by_name_and_in_tuples() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"logits": self.fc(x) * scale}

    scale, loss = torch.tensor(2.0), lambda outputs, y: F.cross_entropy(outputs["logits"], y)
    for inputs in ((X, scale), {"x": X, "scale": scale}):
        model = Two()
        assert graphopt.finetune(model, [(inputs, Y)], loss, epochs=20, lr=0.1).losses[-1] < 0.7
    graphopt.finetune(Two(), [{"x": X, "scale": scale}], lambda outputs: outputs["logits"].square().mean())


def test_early_stop_ends_with_the_best_weights() -> None:
    model, scores = mlp(), iter([0.1, 0.9, 0.3, 0.2, 0.8, 1.0])
    seen: list[dict[str, Tensor]] = []

    def validation(model: nn.Module) -> float:
        seen.append(state(model))
        return next(scores)

    history = graphopt.finetune(
        model, LOADER, F.cross_entropy, epochs=6, validation=validation, patience=2, reestimate=False
    )
    assert history.stopped_early and history.best == 2 and history.scores == [0.1, 0.9, 0.3, 0.2]
    assert same(state(model), seen[1])


def test_validation_loader_scores_the_mean_loss() -> None:
    model = mlp()
    uneven = [(X[:30], Y[:30]), (X[30:], Y[30:])]
    history = graphopt.finetune(model, LOADER, F.cross_entropy, epochs=2, validation=uneven, reestimate=False)
    with torch.no_grad():
        assert min(history.scores) == pytest.approx(float(F.cross_entropy(model(X), Y)), rel=1e-4)


@pytest.mark.parametrize("kind", ["module", "compiled", "first call"])
def test_batch_norms_estimated_anew(kind: str) -> None:
    plain = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    lazy = graphopt.compile(plain, target="fx", dynamic_shapes="batch")
    model = {"module": plain, "compiled": compiled(plain), "first call": lazy.train()}[kind]
    if kind == "first call":
        model(X)
        model.load_state_dict(plain.state_dict())
    weights, batches = state(model), [X[:24], X[24:]]
    assert reestimate_batch_norm(model, batches) == 1
    mean = sum(len(x) * x.mean(0) for x in batches) / len(X)
    variance = sum(len(x) * x.var(0) for x in batches) / len(X)
    torch.testing.assert_close(model.state_dict()["0.running_mean"], mean)
    torch.testing.assert_close(model.state_dict()["0.running_var"], variance)
    assert torch.equal(model.state_dict()["2.weight"], weights["2.weight"])
    assert model.training == (kind != "compiled")
    with pytest.raises(InputError, match="empty"):
        reestimate_batch_norm(model, [])


def test_distillation() -> None:
    z, t = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    zero = torch.tensor(0.0)
    assert float(Distillation(alpha=1.0)(zero, z, z)) == pytest.approx(0.0, abs=1e-6)
    assert float(Distillation(alpha=0.0)(torch.tensor(3.0), z, t)) == 3.0
    # T² keeps the gradient's scale: for a large T it is (s − t) / classes, whatever T.
    for temperature in (100.0, 200.0):
        (gradient,) = torch.autograd.grad(Distillation(1.0, temperature)(zero, z, t), z)
        centred = (z - z.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
        torch.testing.assert_close(gradient, centred.detach() / 7 / 5, atol=5e-3, rtol=0.1)
    expected = 4.0 * F.kl_div(F.log_softmax(z / 2, 1), F.softmax(t / 2, 1), reduction="batchmean")
    torch.testing.assert_close(Distillation(1.0, 2.0)(zero, z, t), expected)
    with pytest.raises(GraphOptError, match="between 0 and 1"):
        Distillation(alpha=2.0)
    with pytest.raises(GraphOptError, match="no logits"):
        Distillation()(zero, "text", t)


def test_a_teacher_is_learned_from() -> None:
    teacher, student = mlp(), mlp()
    before = state(teacher)
    with torch.no_grad():
        student[0].weight.mul_(0.5)
    unlabelled = [(x, None) for x, _ in LOADER]
    history = graphopt.finetune(
        student,
        unlabelled,
        lambda outputs: outputs.sum() * 0,
        epochs=60,
        lr=0.02,
        teacher=teacher,
        distillation=Distillation(alpha=1.0),
    )
    assert history.losses[-1] < 0.05 * history.losses[0]
    assert same(before, state(teacher))


def once() -> Iterator[Any]:
    yield from LOADER


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"epochs": 0}, GraphOptError, "at least 1"),
        ({"lr": -1.0}, GraphOptError, "lr must be positive"),
        ({"patience": 2}, GraphOptError, "needs validation"),
        ({"schedule": "cosin"}, UnknownNameError, "Did you mean 'cosine'"),
        ({"loader": []}, InputError, "loader is empty"),
        ({"loader": once(), "epochs": 2}, InputError, "used up by the first epoch"),
        ({"loader": [LOADER[0], (torch.randn(8, 5), Y[:8])]}, InputError, "batch 1 of epoch 1 .*does not fit"),
        ({"loader": [(X, torch.randn(40, 9, 9))]}, InputError, "loss does not take"),
        ({"loss": lambda outputs, y: outputs}, GraphOptError, "must return a tensor with one number"),
        ({"loss": lambda outputs, y: outputs.sum() * float("nan")}, GraphOptError, "the loss is nan at batch 0"),
        ({"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)}, GraphOptError, "none of the model's"),
        ({"validation": []}, InputError, "validation loader is empty"),
    ],
)
@pytest.mark.parametrize("emitted", [False, True], ids=["module", "compiled"])
def test_bad_input_leaves_the_model_as_it_was(
    options: dict[str, Any], error: type[Exception], text: str, emitted: bool
) -> None:
    model: nn.Module = compiled(mlp(norm=True)) if emitted else mlp(norm=True)
    before, options = state(model), {"loader": LOADER, "loss": F.cross_entropy, **options}
    if emitted and "used up" in text:
        options["loader"] = once()
    with pytest.raises(error, match=text):
        graphopt.finetune(model, **options)
    assert same(before, state(model))


def test_what_does_not_train() -> None:
    fast = graphopt.compile(mlp(), (X,), target="eager")
    with pytest.raises(GraphOptError, match="target='fx'"):
        graphopt.finetune(fast, LOADER, F.cross_entropy)
    with pytest.raises(GraphOptError, match="nothing to train"):
        graphopt.finetune(mlp().requires_grad_(False), LOADER, F.cross_entropy)


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    graphopt.finetune(mlp(), LOADER, F.cross_entropy, epochs=2, progress=True, validation=lambda model: 0.5)
    assert "epoch 2/2" in capsys.readouterr().err
    graphopt.finetune(copy.deepcopy(mlp()), LOADER, F.cross_entropy)
    assert not capsys.readouterr().err
