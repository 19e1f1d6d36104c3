"""Core ML: the specification that is written is read back and held to the graph; it runs on macOS alone."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.backends.coreml import CoreMlEngine, engine, save_coreml
from graphopt.errors import EmissionError, TargetError
from graphopt.ops import parse
from tests.zoo import MODELS

GRAPH = "input %x: f32[2, 3]\n%y = exp(%x)\nreturn %y"
installed = pytest.mark.skipif(find_spec("coremltools") is None, reason="coremltools is not installed")


def test_not_installed_is_one_error_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"graphopt\[coreml\]"):
        graphopt.compile(nn.Linear(2, 2), (torch.ones(1, 2),), target="coreml")
    with pytest.raises(TargetError, match=r"graphopt\[coreml\]"):
        save_coreml(parse(GRAPH), tmp_path / "model.mlpackage")


def test_it_runs_on_macos_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(TargetError, match=r"runs on macOS alone.*save_coreml"):
        CoreMlEngine().load(parse(GRAPH))


def test_another_suffix(tmp_path: Path) -> None:
    with pytest.raises(EmissionError, match=r"ends in \.mlpackage"):
        save_coreml(parse(GRAPH), tmp_path / "model.bin")


def program(path: Path) -> tuple[Any, list[Any]]:
    """The specification, and the operations of its main function."""
    import coremltools

    spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return spec, [operation for operation in block.operations if operation.type != "const"]


@installed
def test_the_specification_of_a_network(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    made = graphopt.compile(model, (torch.randn(1, 3, 8, 8),), target="eager")
    path = tmp_path / "model.mlpackage"
    save_coreml(made.graph, path)
    save_coreml(made.graph, path)  # in place of the one that is there
    spec, operations = program(path)
    assert [operation.type for operation in operations] == ["conv", "relu", "reshape", "linear"]
    (given,), (returned,) = spec.description.input, spec.description.output
    assert list(given.type.multiArrayType.shape) == [1, 3, 8, 8]
    assert list(returned.type.multiArrayType.shape) == [1, 5]


@installed
@pytest.mark.parametrize("name", ["lenet", "hf-bert", "shufflenet"])
def test_real_models_convert(name: str, tmp_path: Path) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs(batch=1)
    made = graphopt.compile(entry.build(), args, kwargs, target="eager")
    save_coreml(made.graph, tmp_path / "model.mlpackage")
    spec, operations = program(tmp_path / "model.mlpackage")
    assert len(spec.description.input) == len(made.graph.inputs)
    assert len(spec.description.output) == len(made.graph.outputs)
    assert len(operations) >= len(made.graph) // 2


@installed
def test_dynamic_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmissionError, match="dynamic sizes"):
        save_coreml(parse("input %x: f32[n]\n%y = exp(%x)\nreturn %y"), tmp_path / "model.mlpackage")
