"""Writing models: all or nothing, weights beside the model on request."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from graphopt.analysis import run_graph
from graphopt.backends.onnx import emit_onnx, save, save_onnx
from graphopt.errors import SerializationError
from graphopt.ir import Graph
from graphopt.ops import parse


def sample() -> Graph:
    return parse("""
        input %x: f32[N, 40]
        parameter %w: f32[30, 40]
        parameter %b: f32[30]
        %y = linear(%x, %w, %b)
        return %y""")


def assert_runs(path: Path, graph: Graph) -> None:
    x = torch.randn(3, 40)
    (result,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), run_graph(graph, x)[0])


@pytest.mark.parametrize("as_model", [False, True])
@pytest.mark.parametrize("external", [False, True, None])
def test_a_saved_model_runs(tmp_path: Path, as_model: bool, external: bool | None) -> None:
    graph, path = sample(), tmp_path / "model.onnx"
    save_onnx(emit_onnx(graph) if as_model else graph, path, external)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["model.onnx", *(["model.onnx.data"] if external else [])]
    onnx.checker.check_model(str(path), full_check=True)
    assert_runs(path, graph)


def test_external_data_leaves_small_tensors_inside_and_the_model_as_it_was(tmp_path: Path) -> None:
    model = emit_onnx(sample())
    before = model.SerializeToString()
    save_onnx(model, tmp_path / "m.onnx", external_data=True)
    assert model.SerializeToString() == before
    stored = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    assert {t.name: t.data_location for t in stored.graph.initializer} == {"w": 1, "b": 0}
    assert (tmp_path / "m.onnx.data").stat().st_size == 4 * 30 * 40


def test_large_weights_go_outside_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "EXTERNAL_ABOVE", 1000)
    save_onnx(sample(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").exists()
    assert_runs(tmp_path / "m.onnx", sample())


def test_emit_with_a_path_also_writes(tmp_path: Path) -> None:
    model = emit_onnx(sample(), path=tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == model.SerializeToString()


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save.os, "replace", full)
    with pytest.raises(SerializationError, match="No space left on device"):
        save_onnx(sample(), path, external)
    assert [f.name for f in tmp_path.iterdir()] == ["m.onnx"] and path.read_bytes() == b"older"


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SerializationError, match=r"cannot write .*No such file"):
        save_onnx(sample(), tmp_path / "nowhere" / "m.onnx")
