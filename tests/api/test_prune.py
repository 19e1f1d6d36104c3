"""`graphopt.prune`: in one call, in steps, for engines, and with everything that a caller may get wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphopt
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from tests.passes.pruning.nets import Convolutions, convolutions, images, labels
from tests.zoo import trained_lenet


def widths(pruned: graphopt.CompiledModel) -> list[int]:
    return [row.after for row in pruned.report.pruning.groups]


def test_the_result_trains_and_the_model_is_left_as_it_was() -> None:
    model, x = convolutions(), images()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = graphopt.prune(model, (x,), ratio=0.5, dynamic_shapes="batch")
    assert pruned.engine == "fx" and widths(pruned) == [3, 4]
    assert {n: tuple(p.shape) for n, p in pruned.named_parameters()}["conv2.weight"] == (4, 3, 3, 3)
    history = graphopt.finetune(pruned, [(x, labels())], F.cross_entropy, epochs=30, lr=0.01, progress=False)
    assert history.losses[-1] < history.losses[0]
    assert pruned(images(7)).shape == (7, 5)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_the_result_compiles_for_an_engine() -> None:
    model, x = convolutions(), images()
    pruned = graphopt.prune(model, (x,), ratio=0.5)
    fast = graphopt.compile(pruned, (x,), target="onnxruntime")
    torch.testing.assert_close(fast(x), pruned(x), rtol=1e-4, atol=1e-5)
    at_once = graphopt.prune(model, (x,), ratio=0.5, target="onnxruntime")
    assert at_once.engine == "onnxruntime"
    torch.testing.assert_close(at_once(x), pruned(x), rtol=1e-4, atol=1e-5)


def test_compile_prunes_by_pipeline_text() -> None:
    model, x = convolutions(), images()
    compiled = graphopt.compile(model, (x,), target="fx", passes="prune-channels{ratio=0.5},dead-code")
    assert widths(compiled) == [3, 4]
    plain = graphopt.compile(model, (x,), target="fx", passes="none")
    with pytest.raises(GraphOptError, match="nothing was pruned"):
        plain.report.pruning  # noqa: B018


@pytest.mark.parametrize("options", [{"ratio": 0.6}, {"ratio": 0.6, "scope": "global"}])
def test_steps_without_training_come_to_the_same_widths(options: dict[str, Any]) -> None:
    at_once = graphopt.prune(convolutions(), (images(),), **options)
    in_steps = graphopt.prune(convolutions(), (images(),), steps=3, **options)
    assert sum(widths(in_steps)) == sum(widths(at_once))
    report = in_steps.report.pruning
    assert report.asked == "ratio=0.6, in 3 steps"
    assert [row.before for row in report.groups] == [6, 8]
    for row in report.groups:
        assert len(row.removed) == row.before - row.after == len(set(row.removed))
    assert report.before == at_once.report.pruning.before
    assert len(in_steps.report.passes.records) == 3


def test_removed_channels_are_numbered_as_in_the_original() -> None:
    model = convolutions()
    pruned = graphopt.prune(model, (images(),), ratio=0.5, steps=3, criterion="l1")
    for row, layer in zip(pruned.report.pruning.groups, (model.conv1, model.conv2)):
        kept = [k for k in range(row.before) if k not in row.removed]
        bias = dict(pruned.named_parameters())[row.name.replace("weight", "bias")]
        assert torch.equal(bias, layer.bias[kept])


@pytest.mark.parametrize("budget", ["macs", "parameters"])
def test_budgets_are_those_of_the_original_in_any_number_of_steps(budget: str) -> None:
    for steps in (1, 3):
        pruned = graphopt.prune(convolutions(), (images(),), steps=steps, **{budget: 0.4})
        report = pruned.report.pruning
        assert getattr(report.after, budget) <= 0.4 * getattr(report.before, budget)


def test_finetuning_between_steps_is_kept() -> None:
    trained = trained_lenet()
    data = trained.data
    loader = [(data.train_images[i : i + 64], data.train_labels[i : i + 64]) for i in range(0, 1024, 64)]
    seen: list[int] = []

    def finetune(pruned: graphopt.CompiledModel) -> None:
        seen.append(sum(p.numel() for p in pruned.parameters()))
        graphopt.finetune(pruned, loader, F.cross_entropy, epochs=1, lr=2e-3, progress=False)

    x = data.images[:2]
    pruned = graphopt.prune(
        trained.module,
        (x,),
        dynamic_shapes="batch",
        macs=0.3,
        steps=2,
        criterion="taylor",
        calibration=loader,
        loss="cross-entropy",
        finetune=finetune,
        target="onnxruntime",
    )
    assert len(seen) == 2 and seen[1] < seen[0]
    assert pruned.engine == "onnxruntime" and not pruned.training
    rows = data.images[:200]
    right = int((pruned(rows).argmax(1) == data.labels[:200]).sum())
    assert right >= 180
    report = pruned.report.pruning
    assert report.after.macs <= 0.3 * report.before.macs


def test_ignored_layers_by_type_module_and_name() -> None:
    model = convolutions()
    for ignore, left in (
        (nn.Linear, [3, 4]),
        (nn.BatchNorm2d, [6, 8]),
        (model.conv1, [6, 4]),
        ([model.conv1, "conv2"], [6, 8]),
        (nn.Module, [6, 8]),
        ("bn2", [3, 8]),
    ):
        assert widths(graphopt.prune(model, (images(),), ratio=0.5, ignore=ignore)) == left  # type: ignore[arg-type]


def test_calibration_that_can_be_read_once_serves_all_steps() -> None:
    loader = ((images(4, seed=s), labels()) for s in range(3))
    pruned = graphopt.prune(
        convolutions(), (images(),), ratio=0.5, steps=2, criterion="fisher", loss="cross-entropy", calibration=loader
    )
    assert widths(pruned) == [3, 4]


BAD: list[tuple[dict[str, Any], type[GraphOptError], str]] = [
    ({"ratio": 1.5}, GraphOptError, "ratio is a share"),
    ({"ratio": 1.0}, GraphOptError, "at 1 nothing would be left"),
    ({"ratios": {"conv1": -0.5}}, GraphOptError, "ratio of 'conv1' is a share"),
    ({"rato": 0.5}, UnknownNameError, "Did you mean 'ratio'"),
    ({"criterion": "taylr"}, UnknownNameError, "Did you mean 'taylor'"),
    ({"criterion": "taylor"}, InputError, "criterion 'taylor' needs a loss"),
    ({"criterion": "apoz", "calibration": []}, InputError, "hold no batch"),
    (
        {"criterion": "apoz", "calibration": [torch.zeros(2, 4)]},
        InputError,
        "batch 0 of the calibration data does not fit",
    ),
    (
        {"criterion": lambda group, _: [float("nan")] * group.size},
        GraphOptError,
        "scored channel 0 of 'conv1.weight' as nan",
    ),
    ({"criterion": "taylor", "loss": lambda y: y}, InputError, "must return a tensor with one number"),
    ({"channels": {"conv1": range(6)}}, GraphOptError, "'conv1.weight' would vanish"),
    ({"macs": 1e-4}, GraphOptError, r"macs=0.0001 cannot be reached: the best is macs=0\.\d+"),
    ({"speedup": 2.0}, GraphOptError, "name one, as engine=onnxruntime"),
    ({"ignore": "conv9"}, UnknownNameError, "Unknown name 'conv9'. Did you mean 'conv[12]'"),
    ({"ignore": nn.ReLU}, GraphOptError, "ignore names ReLU, and no module of the model with parameters is one"),
    ({"ignore": 3}, GraphOptError, "ignore takes names, and module types and modules"),
    ({"steps": 0}, GraphOptError, "steps must be a whole number of at least 1"),
    ({"target": "fxx"}, UnknownNameError, "Did you mean 'fx'"),
]


@pytest.mark.parametrize(("options", "kind", "message"), BAD)
def test_bad_input_is_one_error_and_the_model_is_unchanged(
    options: dict[str, Any], kind: type[GraphOptError], message: str
) -> None:
    model = convolutions()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(kind, match=message):
        graphopt.prune(model, (images(),), **options)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert isinstance(model, Convolutions) and not model.training
    assert all(p.grad is None for p in model.parameters())


def test_compile_raises_what_pruning_cannot_do() -> None:
    with pytest.raises(InputError, match="criterion 'taylor' needs a loss"):
        graphopt.compile(convolutions(), (images(),), passes="prune-channels{criterion=taylor}")
    with pytest.raises(GraphOptError, match=r"macs=0\.0001 cannot be reached"):
        graphopt.compile(convolutions(), (images(),), passes="prune-channels{macs=0.0001}")


def test_saved_and_loaded(tmp_path: Any) -> None:
    model, x = convolutions(), images()
    pruned = graphopt.prune(model, (x,), ratio=0.5)
    pruned.save(tmp_path / "pruned.gopt")
    loaded = graphopt.load(tmp_path / "pruned.gopt")
    torch.testing.assert_close(loaded(x), pruned(x))
    sliced = pruned.slice_state_dict(model.state_dict())
    assert torch.equal(sliced["conv1.weight"], dict(pruned.named_parameters())["conv1.weight"])


def test_constants_that_are_kept_may_err_at_padded_borders() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
    model = nn.Sequential(first, nn.Sigmoid(), second, nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    x = torch.randn(2, 3, 12, 12)
    small = graphopt.prune(model, (x,), ratio=0.0, constants="keep", channels={"0.weight": tuple(range(8))})
    report = small.report.pruning
    assert report.masked_error > 1e-4  # reported, not refused
    with torch.no_grad():
        constant = torch.sigmoid(first.bias)  # what a filter without weights gives, everywhere
        hidden = torch.sigmoid(first(x))
        hidden[:, :8] = constant[:8, None, None]
        exact = model[4](torch.relu(second(hidden)))
    inner = (..., slice(2, -2), slice(2, -2))
    assert not torch.allclose(small(x), exact, atol=1e-5)
    torch.testing.assert_close(small(x)[inner], exact[inner], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"norms": "refus"}, {"constants": "kep"}])
def test_modes_are_checked(options: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        graphopt.prune(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval(), (torch.randn(2, 4),), **options)
