"""ONNX files on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from graphopt import onnx_proof
from graphopt.errors import GraphOptError, ValidationError
from graphopt.onnx_values import parse_values
from tests.api.onnx_models import embedding, in_onnxruntime, mlp, reshape
from tests.api.test_cli import run
from tests.frontends.onnx.real_files import paths


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "mlp.onnx")
    onnx.save(reshape(), "reshape.onnx")
    onnx.save(embedding(), "embedding.onnx")
    return tmp_path


def summary(output: str) -> dict[str, str]:
    """The lines that say what became of a file, by their titles."""
    text = output[output.index(" → ") :]
    return dict(re.findall(r"^  (\w+) +(.+(?:\n {11}.+)*)", text, re.MULTILINE))


def test_a_file_is_compiled_and_proved_at_two_sizes(folder: Path) -> None:
    found = summary(run("compile", "mlp.onnx", "-o", "out.onnx").output)
    assert found["nodes"] == "5 → 3" and found["opset"] == "17"
    assert found["changed"] == "Add 1 → 0, Gemm 1 → 2, Identity 1 → 0, MatMul 1 → 0"
    first, second = found["proof"].splitlines()
    sizes = {int(re.search(r"x\[(\d+), 4\]: max error", line)[1]) for line in (first, second)}  # type: ignore[index]
    assert len(sizes) == 2
    onnx.checker.check_model("out.onnx", full_check=True)
    x = torch.randn(3, 4)
    torch.testing.assert_close(in_onnxruntime("out.onnx", x=x)[0], in_onnxruntime("mlp.onnx", x=x)[0])
    assert sorted(path.name for path in folder.iterdir()) == [
        *("embedding.onnx", "mlp.onnx", "out.onnx", "reshape.onnx")
    ]


def test_a_file_that_computes_something_else_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "out.onnx").write_bytes(b"older")
    runs = onnx_proof.FileSession.run

    def wrong(self: onnx_proof.FileSession, feeds: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        outputs = runs(self, feeds)
        return outputs if self.path.name == "mlp.onnx" else [outputs[0] * 1.01]

    monkeypatch.setattr(onnx_proof.FileSession, "run", wrong)
    with pytest.raises(ValidationError, match=r"out.onnx was not written: .*output 0: the error .* exceeds"):
        run("compile", "mlp.onnx", "-o", "out.onnx")
    assert (folder / "out.onnx").read_bytes() == b"older" and len(list(folder.iterdir())) == 4
    assert summary(run("compile", "mlp.onnx", "-o", "out.onnx", "--no-validate").output)["proof"] == "not asked for"


def test_opset_and_external_data_are_chosen(folder: Path) -> None:
    found = summary(run("compile", "mlp.onnx", "-o", "out.onnx", "--opset", "21", "--external-data").output)
    assert found["opset"] == "17 → 21" and "proof" in found
    model = onnx.load("out.onnx", load_external_data=False)
    assert model.ir_version == 10 and not (folder / "out.onnx.data").exists()  # small tensors stay inside
    large = mlp()
    large.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((4, 400), np.float32), "fc1/kernel"))
    large.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.ones(400, np.float32), "fc1/bias"))
    large.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.ones((3, 400), np.float32), "fc2.weight"))
    onnx.save(large, "large.onnx")
    found = summary(run("compile", "large.onnx", "-o", "out.onnx", "--external-data").output)
    assert "max error" in found["proof"] and (folder / "out.onnx.data").exists()
    assert "max error" in summary(run("compile", "out.onnx", "-o", "again.onnx").output)["proof"]
    assert not (folder / "again.onnx.data").exists()


def test_contents_that_decide_shapes_are_asked_for_by_name() -> None:
    with pytest.raises(GraphOptError, match=r"--value shape=1,3,8 or --value shape=FILE\.npy"):
        run("compile", "reshape.onnx", "-o", "out.onnx")
    with pytest.raises(GraphOptError, match="--value shape"):
        run("show", "reshape.onnx")
    found = summary(run("compile", "reshape.onnx", "-o", "out.onnx", "--value", "shape=2,-1").output)
    assert "x[4, 4], shape[2]: max error" in found["proof"]
    assert [i.name for i in onnx.load("out.onnx").graph.input] == ["x", "shape"]


def test_values_are_numbers_json_or_files(folder: Path) -> None:
    np.save("ids.npy", np.array([[1, 2, 3]]))
    found = parse_values(Path("embedding.onnx"), ["ids=ids.npy", "mask=[[1,1,0]]"])
    assert found["ids"].tolist() == [[1, 2, 3]] and found["mask"].dtype is torch.int64
    assert parse_values(Path("reshape.onnx"), ["shape=3,-1"])["shape"].tolist() == [3, -1]
    assert parse_values(Path("mlp.onnx"), ["x=[[1,2,3,4]]"])["x"].dtype is torch.float32
    result = run("compile", "embedding.onnx", "-o", "out.onnx", "--value", "ids=ids.npy", "--value", "mask=[[1,0,1]]")
    assert "ids[1, 3], mask[1, 3]: max error" in result.output and "made-up" not in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shape", r"NAME=VALUE with the name of an input \(x, shape\)"),
        ("size=1,2", r"NAME=VALUE with the name of an input \(x, shape\)"),
        ("shape=a,b", "neither a .npy file nor numbers"),
        ("shape=0.5,2", "takes torch.int64, got torch.float32"),
        ("shape=missing.npy", "cannot be read"),
        ("shape=[[1,2],[3]]", "no tensor"),
    ],
)
def test_a_wrong_value_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(GraphOptError, match=message):
        run("show", "reshape.onnx", "--value", text)


def test_values_are_for_onnx_files(folder: Path) -> None:
    (folder / "net.py").write_text("def build(): return None")
    with pytest.raises(GraphOptError, match=r"--value gives the inputs of an ONNX file, and net.py:build is none"):
        run("show", "net.py:build", "--value", "x=1")


def test_every_command_takes_a_file() -> None:
    assert 'aten.matmul(%x, %"fc1/kernel")' in run("show", "mlp.onnx").output
    assert "aten.linear" in run("show", "mlp.onnx", "-p", "default").output
    assert "aten.linear" in run("opt", "mlp.onnx", "-p", "fuse-linear").output
    assert "matmul-to-linear" in run("explain", "mlp.onnx", "--pass", "fuse-linear").output
    assert "every pass keeps its promise" in run("bisect", "mlp.onnx").output
    assert "original" in run("bench", "mlp.onnx", "-t", "onnxruntime", "--rounds", "1").output
    assert "SQNR" in run("attribute", "mlp.onnx", "--engines", "onnxruntime").output


def test_two_files_are_compared_where_they_diverge() -> None:
    run("compile", "mlp.onnx", "-o", "out.onnx")
    same = run("diff", "mlp.onnx", "out.onnx").output
    assert "MatMul" in same and "out of tolerance" not in same
    changed = mlp()
    weight = changed.graph.initializer[1]
    weight.raw_data = (onnx.numpy_helper.to_array(weight) + 1).astype(np.float32).tobytes()
    onnx.save(changed, "changed.onnx")
    found = run("diff", "mlp.onnx", "changed.onnx", code=1).output
    assert "first" in found and "%b = Add(%h, %fc1/bias)" in found
    assert "x" in run("diff", "embedding.onnx", "embedding.onnx").output


def test_a_real_file_end_to_end(folder: Path) -> None:
    """The text direction classifier of rapidocr."""
    (source,) = [path for path in paths() if "cls" in path.name]
    found = summary(run("compile", str(source), "-o", "out.onnx").output)
    before, after = map(int, found["nodes"].split(" → "))
    assert after < 0.5 * before and "BatchNormalization 35 → 0" in found["changed"]
    assert len(found["proof"].splitlines()) == 2
    onnx.checker.check_model("out.onnx", full_check=True)
    x = torch.randn(1, 3, 48, 192)
    torch.testing.assert_close(
        in_onnxruntime("out.onnx", x=x)[0], in_onnxruntime(str(source), x=x)[0], rtol=1e-4, atol=1e-5
    )
