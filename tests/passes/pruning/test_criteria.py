"""Each criterion against eager PyTorch, autograd on the module, or the formula in loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.passes.pruning.criteria import (
    NORMALIZATIONS,
    checked,
    criterion_names,
    get_criterion,
    get_normalization,
    register_criterion,
)
from graphopt.passes.pruning.criteria.base import FunctionCriterion
from tests.passes.pruning.nets import Convolutions, Heads, convolutions, evidence, images, labels
from tests.zoo.model import seeded

Slices = dict[str, list[list[Tensor]]]


def scores(name: Any, found: Any, **options: Any) -> dict[str, np.ndarray]:
    groups = found.analysis.groups
    return checked(get_criterion(name, **options).scores(groups, found), groups, str(name))


def slices(model: Convolutions, pick: Any = lambda p: p.detach()) -> Slices:
    """For each channel of each group, every parameter slice that goes with it."""
    p = {name: pick(parameter) for name, parameter in model.named_parameters()}
    first = [
        [*(p[n][k] for n in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias")), p["conv2.weight"][:, k]]
        for k in range(6)
    ]
    second = [
        [
            *(p[n][k] for n in ("conv2.weight", "conv2.bias", "bn2.weight", "bn2.bias")),
            p["fc.weight"][:, 4 * k : 4 * k + 4],
        ]
        for k in range(8)
    ]
    return {"conv1.weight": first, "conv2.weight": second}


def each(parts: Slices, measure: Any) -> dict[str, list[float]]:
    return {name: [float(measure(channel)) for channel in channels] for name, channels in parts.items()}


def assert_close(got: dict[str, np.ndarray], want: dict[str, list[float]]) -> None:
    assert list(got) == list(want)
    for name, expected in want.items():
        np.testing.assert_allclose(got[name], expected, rtol=2e-5, err_msg=name)


def test_magnitudes_sum_over_every_slice_of_the_channel() -> None:
    model = convolutions()
    found = evidence(model, images())
    parts = slices(model)
    assert_close(scores("l1", found), each(parts, lambda c: sum(s.abs().sum() for s in c)))
    assert_close(scores("l2", found), each(parts, lambda c: math.sqrt(sum(s.square().sum() for s in c))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_magnitudes_of_narrow_weights_are_summed_in_full_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4000, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype)
    wide = torch.cat([model[0].weight, model[0].bias[:, None], model[2].weight.T], 1).detach().double()
    got = scores("l1", evidence(model, torch.zeros(2, 4000, dtype=dtype)))["0.weight"]
    np.testing.assert_allclose(got, wide.abs().sum(1).numpy(), rtol=1e-6)


def test_heads_and_positions_score_their_own_slots() -> None:
    model = Heads()
    got = scores("l2", evidence(model, torch.zeros(2, 5)))
    squares = model.first.weight.detach().square().sum(1) + model.second.weight.detach().square().sum(0)
    table = squares.view(3, 4)
    found = sorted((s.tolist() for s in got.values()), key=len)
    np.testing.assert_allclose(found[0], table.sum(1).sqrt().numpy(), rtol=1e-5)
    np.testing.assert_allclose(found[1], table.sum(0).sqrt().numpy(), rtol=1e-5)


def test_batch_norm_scale_is_gamma_and_leaves_groups_without() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 5, 1), nn.Conv1d(5, 2, 1)
    ).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -2.0, 0.0, 1.0]))
    got = scores("batch-norm-scale", evidence(model, torch.zeros(1, 2, 3)))
    assert {name: s.tolist() for name, s in got.items()} == {"0.weight": [0.5, 2.0, 0.0, 1.0]}


def test_fpgm_is_the_sum_of_distances_between_filters() -> None:
    model = convolutions()
    got = scores("fpgm", evidence(model, images()))
    for name, layer in (("conv1.weight", model.conv1), ("conv2.weight", model.conv2)):
        rows = layer.weight.detach().double()
        want = [sum(float((a - b).square().sum().sqrt()) for b in rows) for a in rows]
        np.testing.assert_allclose(got[name], want, rtol=1e-6)


def test_random_is_a_function_of_seed_and_name() -> None:
    found = evidence(convolutions(), images())
    first, again, other = (scores("random", found, seed=s) for s in (3, 3, 4))
    assert all(np.array_equal(first[n], again[n]) and not np.array_equal(first[n], other[n]) for n in first)
    assert not np.array_equal(first["conv1.weight"], first["conv2.weight"][:6])


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def test_taylor_is_autograd_on_the_module() -> None:
    model = convolutions()
    data = [(images(4, seed=s), labels(4)) for s in (1, 2, 3)]
    want: dict[str, np.ndarray] = {"conv1.weight": np.zeros(6), "conv2.weight": np.zeros(8)}
    for x, y in data:
        gradients(model, x, y)
        products = slices(model, lambda p: (p * p.grad).detach())
        for name, channels in products.items():
            want[name] += [sum(abs(float(s.sum())) for s in channel) / len(data) for channel in channels]
    got = scores("taylor", evidence(model, images(), data, "cross-entropy"))
    assert_close(got, {name: total.tolist() for name, total in want.items()})


@pytest.mark.parametrize("dynamic", ["batch", None])
def test_fisher_is_gradients_of_single_samples(dynamic: str | None) -> None:
    model = convolutions()
    data = [(images(4, seed=s), labels(4)) for s in (1, 2)]
    want: dict[str, np.ndarray] = {"conv1.weight": np.zeros(6), "conv2.weight": np.zeros(8)}
    for x, y in data:
        for row in range(len(x)):
            gradients(model, x[row : row + 1], y[row : row + 1])
            products = slices(model, lambda p: (p * p.grad).square().detach())
            for name, channels in products.items():
                want[name] += [0.5 * sum(float(s.sum()) for s in channel) / 8 for channel in channels]
    got = scores("fisher", evidence(model, images(), data, F.cross_entropy, dynamic))
    assert_close(got, {name: total.tolist() for name, total in want.items()})


def activations(model: Convolutions, data: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What the second convolution and the linear layer read."""
    with torch.no_grad():
        first = [F.relu(model.bn1(model.conv1(x))) for x in data]
        second = [F.max_pool2d(F.relu(model.bn2(model.conv2(x))), 2).flatten(1) for x in first]
    return torch.cat(first), torch.cat(second)


def test_activity_is_that_of_what_the_next_layers_read() -> None:
    model = convolutions()
    data = [images(4, seed=1), images(2, seed=2)]
    found = evidence(model, images(), data)
    first, second = activations(model, data)
    per = [first.transpose(0, 1).flatten(1), second.unflatten(1, (8, 4)).transpose(0, 1).flatten(1)]
    names = ("conv1.weight", "conv2.weight")
    assert_close(scores("mean-activation", found), {n: a.abs().mean(1).tolist() for n, a in zip(names, per)})
    assert_close(scores("apoz", found), {n: (a != 0).float().mean(1).tolist() for n, a in zip(names, per)})


def test_wanda_is_weight_times_norm_of_input() -> None:
    model = convolutions()
    data = [images(4, seed=1), images(2, seed=2)]
    first, second = activations(model, data)
    norms = first.square().sum((0, 2, 3)).sqrt()
    conv = (model.conv2.weight.detach().abs().sum((0, 2, 3)) * norms).tolist()
    slots = model.fc.weight.detach().abs().sum(0) * second.square().sum(0).sqrt()
    got = scores("wanda", evidence(model, images(), data))
    assert_close(got, {"conv1.weight": conv, "conv2.weight": slots.view(8, 4).sum(1).tolist()})


def test_wanda_of_a_grouped_layer() -> None:
    with seeded(0):
        model = nn.Sequential(nn.Conv1d(2, 8, 1), nn.ReLU(), nn.Conv1d(8, 4, 1, groups=2)).eval()
    x = torch.randn(3, 2, 5)
    got = scores("wanda", evidence(model, x, [x]))
    assert got and all((s > 0).all() for s in got.values())


def test_a_function_is_a_criterion_and_one_can_be_registered() -> None:
    model = convolutions()
    found = evidence(model, images())
    got = scores(lambda group, evidence: range(group.size), found)
    assert got["conv1.weight"].tolist() == [0, 1, 2, 3, 4, 5]
    register_criterion("test-last-first")(lambda: FunctionCriterion(lambda group, _: -np.arange(group.size)))
    assert scores("test-last-first", found)["conv1.weight"].tolist() == [0, -1, -2, -3, -4, -5]
    with pytest.raises(GraphOptError, match="registered already"):
        register_criterion("l2")(lambda: None)  # type: ignore[arg-type,return-value]


def test_wrong_scores_are_refused() -> None:
    found = evidence(convolutions(), images())
    with pytest.raises(GraphOptError, match=r"shape \(3,\); its 6 channels"):
        scores(lambda group, _: [1, 2, 3], found)
    with pytest.raises(GraphOptError, match=r"channel 2 of 'conv1\.weight' as nan"):
        scores(lambda group, _: np.where(np.arange(group.size) == 2, np.nan, 1.0), found)
    with pytest.raises(UnknownNameError, match="Did you mean 'taylor'"):
        get_criterion("tailor")
    with pytest.raises(GraphOptError, match="a criterion is a name"):
        get_criterion(3)  # type: ignore[arg-type]
    assert {"l1", "l2", "batch-norm-scale", "fpgm", "random", "apoz", "mean-activation", "wanda"} <= set(
        criterion_names()
    )


def test_losses_that_do_not_work() -> None:
    model, x = convolutions(), images()
    for loss, message in (
        (lambda y: y, r"one number, got shape \[4, 5\]"),
        (lambda y: 1.0, "one number, got float"),
        (lambda y: y.sum() * math.nan, "the loss is nan"),
        (lambda y: y.detach().sum(), "does not depend on the weights"),
        (lambda y: y.logits, "does not take the model's outputs"),
    ):
        with pytest.raises(GraphOptError, match=message):
            scores("taylor", evidence(model, x, [x], loss))
    with pytest.raises(InputError, match="no data"):
        scores("apoz", evidence(model, x))
    with pytest.raises(UnknownNameError, match="Did you mean 'cross-entropy'"):
        evidence(model, x, [x], "crossentropy")


finite = st.floats(0.0, 1e6, allow_subnormal=False).map(lambda v: 0.0 if v < 1e-3 else v)


@settings(deadline=None, max_examples=60)
@given(st.lists(finite, min_size=1, max_size=20))
def test_lamp_is_the_formula(values: list[float]) -> None:
    numbers = np.array(values)
    got = get_normalization("lamp")(numbers)
    order = sorted(range(len(values)), key=lambda i: (values[i], -i))
    for place, i in enumerate(order):
        rest = sum(values[j] ** 2 for j in order[place:])
        assert got[i] == pytest.approx(values[i] ** 2 / rest if rest else 0.0)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(NORMALIZATIONS)), st.lists(finite, min_size=1, max_size=20))
def test_normalizations_keep_the_order_and_fix_the_scale(name: str, values: list[float]) -> None:
    numbers = np.array(values)
    got = get_normalization(name)(numbers)
    assert np.isfinite(got).all()
    less = numbers[:, None] < numbers[None, :]
    assert (np.where(less, got[:, None] - got[None, :], 0.0) <= 1e-9).all()
    if numbers.max() > 0:
        scale = {"mean": got.mean(), "max": got.max(), "sum": got.sum(), "lamp": got.max()}.get(name, 1.0)
        assert scale == pytest.approx(1.0)
        again = get_normalization(name)(7 * numbers)
        assert name == "none" or np.allclose(again, got, atol=1e-6)
    with pytest.raises(UnknownNameError, match="normalization"):
        get_normalization("men")
