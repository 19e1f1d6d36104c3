"""Whatever is wrong with what is asked: one clear error, and the model as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphopt
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.passes.prune_weights import PruneWeights
from graphopt.passes.pruning.budget import Unreachable
from tests.passes.pruning.nets import convolutions, images, labels

X, Y = images(), labels()

ASKED: list[tuple[dict[str, Any], type[GraphOptError], str]] = [
    ({"ratio": 1.0}, GraphOptError, "at least 0 and below 1, got 1.0; at 1 nothing would be left"),
    ({"ratio": -0.1}, GraphOptError, "share of channels to remove"),
    ({"ratio": float("nan")}, GraphOptError, "got nan"),
    ({"ratio": True}, GraphOptError, "got True"),
    ({"ratio": torch.tensor(0.5)}, GraphOptError, "got tensor"),
    ({"macs": 0}, GraphOptError, "above 0 and at most 1, got 0"),
    ({"parameters": "half"}, GraphOptError, "got 'half'"),
    ({"macs": 1e-4}, Unreachable, "the best is macs="),
    ({"speedup": "twice"}, GraphOptError, "speedup must be at least 1, got 'twice'"),
    ({"speedup": 2.0}, GraphOptError, "engine=onnxruntime"),
    ({"speedup": 2.0, "engine": 3}, GraphOptError, "name of an engine"),
    ({"min_width": "a"}, GraphOptError, "min_width must be a whole number, got 'a'"),
    ({"min_width": 2.5}, GraphOptError, "whole number, got 2.5"),
    ({"round_to": 0}, GraphOptError, "round_to must be at least 1, got 0"),
    ({"round_to": "engine"}, UnknownNameError, "'target'"),
    ({"batches": "all"}, GraphOptError, "batches must be a whole number"),
    ({"seed": None}, GraphOptError, "seed must be a whole number"),
    ({"sweep": 0.5}, GraphOptError, "several shares of channels to remove, as (0.25, 0.5, 0.75), got 0.5"),
    ({"sweep": ["a"]}, GraphOptError, "got 'a'"),
    ({"ratios": [0.5]}, GraphOptError, 'as {"layer1.*": 0.25}, got [0.5]'),
    ({"ratios": {3: 0.5}}, GraphOptError, "maps names"),
    ({"ratios": {"conv1": 1.0}}, GraphOptError, "ratio of 'conv1'"),
    ({"ratios": {"conv3": 0.5}}, UnknownNameError, "Did you mean 'conv2' or 'conv1'"),
    ({"channels": {"conv1": 3}}, GraphOptError, "channels of 'conv1' are whole numbers, as (3, 5), got 3"),
    ({"channels": {"conv1": "3"}}, GraphOptError, "got '3'"),
    ({"channels": {"conv1": (1.5,)}}, GraphOptError, "got (1.5,)"),
    ({"channels": {"conv1": (6,)}}, GraphOptError, "channels 0 to 5, got 6"),
    ({"channels": {"conv1": range(6)}}, GraphOptError, "would vanish"),
    ({"channels": [3]}, GraphOptError, 'as {"conv1": (3, 5)}, got [3]'),
    ({"ignore": "conv3"}, UnknownNameError, "Did you mean"),
    ({"ignore": nn.LSTM}, GraphOptError, "ignore names LSTM"),
    ({"ignore_types": 3}, GraphOptError, "takes names, got 3"),
    ({"ration": 0.5}, UnknownNameError, "Did you mean 'ratio'"),
    ({"criterion": "l3"}, UnknownNameError, "Did you mean 'l2' or 'l1'"),
    ({"criterion": lambda group: group}, GraphOptError, "called as f(group, evidence)"),
    ({"criterion": lambda group, evidence: "much"}, GraphOptError, "need one number each"),
    ({"criterion": lambda group, evidence: np.full(group.size, np.nan)}, GraphOptError, "as nan (and 5 others)"),
    ({"criterion": "taylor"}, InputError, "needs a loss"),
    ({"criterion": "taylor", "loss": "crossentropy"}, UnknownNameError, "Did you mean 'cross-entropy'"),
    ({"criterion": "taylor", "loss": 3}, GraphOptError, "a loss is a function"),
    ({"criterion": "taylor", "loss": "cross-entropy"}, InputError, "calibration=[(inputs, targets), …]"),
    ({"criterion": "fisher", "loss": F.cross_entropy, "calibration": [X]}, InputError, "loss=f(outputs)"),
    ({"criterion": "taylor", "loss": lambda o: o.sum() * float("nan"), "calibration": [X]}, GraphOptError, "is nan"),
    ({"criterion": "wanda", "calibration": 3}, GraphOptError, "calibration takes batches"),
    ({"criterion": "wanda", "calibration": "data"}, GraphOptError, "calibration takes batches"),
    ({"criterion": "wanda", "calibration": []}, InputError, "hold no batch"),
    ({"criterion": "wanda", "calibration": [X[:, :2]]}, InputError, "batch 0 of the calibration data does not fit"),
    ({"steps": 0}, GraphOptError, "steps must be"),
    ({"finetune": 3}, GraphOptError, "finetune takes a function"),
    ({"validate": "sometimes"}, UnknownNameError, "value of validate"),
]


@pytest.mark.parametrize(("options", "kind", "text"), ASKED, ids=[str(i) for i in range(len(ASKED))])
def test_prune(options: dict[str, Any], kind: type[GraphOptError], text: str) -> None:
    model = convolutions()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(kind, match=re.escape(text)):
        graphopt.prune(model, (X,), dynamic_shapes="batch", **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sparsity": 1.0}, "at least 0 and below 1, got 1.0; at 1 nothing would be left"),
        ({"sparsity": "half"}, "share of zeros"),
        ({"layers": {"conv1.weight": 1}}, "conv1.weight is a share of zeros"),
        ({"layers": [0.5]}, "maps names"),
        ({"ignore": 3}, "takes names"),
        ({"samples": "all"}, "whole number"),
        ({"seed": 0.5}, "whole number"),
    ],
)
def test_weights(options: dict[str, Any], text: str) -> None:
    with pytest.raises(GraphOptError, match=re.escape(text)):
        PruneWeights(**options)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"loader": 3}, "loader takes batches"),
        ({"loader": []}, "gave no batch"),
        ({"loader": [(X[:, :2], Y)]}, "does not fit the model"),
        ({"loss": "crossentropy"}, "Did you mean 'cross-entropy'"),
        ({"loss": None}, "a loss is a function"),
        ({"validation": 3}, "validation takes a loader"),
        ({"validation": [(X, Y)], "patience": "long"}, "patience is at least 1"),
        ({"teacher": 3}, "teacher takes a model"),
        ({"regularizers": 3}, "regularizers takes functions"),
        ({"regularizers": [3]}, "regularizers takes functions"),
        ({"optimizer": 3}, "optimizer takes an optimizer"),
        ({"lr": "fast"}, "lr must be positive"),
        ({"epochs": "many"}, "epochs must be a whole number"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_finetune(change: dict[str, Any], text: str) -> None:
    model = convolutions()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = {"loader": [(X, Y)], "loss": F.cross_entropy, "epochs": 1, **change}
    with pytest.raises(GraphOptError, match=re.escape(text)):
        graphopt.finetune(model, **arguments)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_finetune_trains_modules() -> None:
    with pytest.raises(GraphOptError, match=r"finetune trains an nn\.Module, got int"):
        graphopt.finetune(3, [(X, Y)], F.cross_entropy)


def test_numbers_of_any_type_and_losses_by_name_are_taken() -> None:
    model = convolutions()
    options: dict[str, Any] = {
        "ratio": np.float32(0.5),
        "channels": {"conv1": np.array([0, 2])},
        "min_width": np.int64(2),
    }
    small = graphopt.prune(model, (X,), dynamic_shapes="batch", validate=False, **options)
    (row,) = [row for row in small.report.pruning.groups if row.name == "conv1.weight"]
    assert list(row.removed) == [0, 2]
    assert graphopt.finetune(small, [(X, Y)], "cross-entropy", progress=False).losses


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"round_to": 16}, "round_to=16 leaves it whole"),
        ({"min_width": 8}, "min_width=8 leaves it whole"),
        ({"min_width": 7, "round_to": 4}, "min_width=7 and round_to=4 leave it whole"),
        ({"ratio": 0.2, "round_to": 6}, "round_to=6 leaves it whole"),
    ],
)
def test_groups_that_limits_keep_whole_say_so(options: dict[str, Any], reason: str) -> None:
    model: Callable[..., Any] = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))
    report = graphopt.prune(model, (torch.ones(1, 4),), **options).report.pruning
    assert {r.name: r.reason for r in report.refused}["0.weight"] == reason
    assert report.widths()[1]["after"] < 64
