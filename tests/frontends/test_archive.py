"""`.pt2` files: read back equal, and refused where reading could run code."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from graphopt.errors import CaptureError
from graphopt.frontends import capture
from graphopt.frontends.torch_export.archive import reason_for_trust
from graphopt.ir import verify
from tests.frontends.running import run, same


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)
        self.head.weight = self.linear.weight
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        y.t()[1:3].mul_(2)
        self.count.add_(1)
        return self.head(y).view(x.shape[0] * 2, -1)


@pytest.fixture()
def saved(tmp_path: Path) -> tuple[str, Model]:
    model = Model().eval()
    program = torch.export.export(model, (torch.ones(4, 4),), dynamic_shapes={"x": {0: Dim("n")}})
    path = str(tmp_path / "model.pt2")
    torch.export.save(program, path)
    return path, model


def rewritten(path: str, change: Callable[[str, bytes], bytes]) -> str:
    """A copy of an archive with changed records, written as PyTorch writes archives."""
    target = path.replace(".pt2", "-changed.pt2")
    with zipfile.ZipFile(path) as source:
        root = source.namelist()[0].split("/")[0]
        writer = torch._C.PyTorchFileWriter(target)
        for name in source.namelist():
            record = name[len(root) + 1 :]
            if record not in ("version", ".data/serialization_id", "byteorder"):
                data = change(record, source.read(name))
                writer.write_record(record, data, len(data))
        writer.write_end_of_file()
    return target


def test_a_saved_program_reads_back(saved: tuple[str, Model]) -> None:
    path, model = saved
    assert reason_for_trust(path) is None
    graph = capture(path)
    verify(graph)
    x = torch.randn(6, 4)
    result, updates = run(graph, (x,))
    same(result, model(x).detach(), 1e-6)
    same(updates, {"count": torch.ones(1)})
    assert sum("weight" in name for name in graph.constants) == 1


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(-1),
        lambda x: x.t().reshape(-1),
        lambda x: x.contiguous(),
        lambda x: x.t().contiguous(),
        lambda x: x.chunk(2)[1],
        lambda x: x.flatten(),
        lambda x: nn.functional.dropout(x, training=False),
    ],
)
def test_views_of_a_deserialized_program_share_memory(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            base = x * 1
            seen = view(base)
            seen.add_(5)
            return base + 0, seen + 0

    x = torch.randn(4, 3)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(Views(), (x,)), buffer)
    buffer.seek(0)
    graph = capture(torch.export.load(buffer))
    same(run(graph, (x,))[0], Views()(x), 1e-6)


def test_path_objects(saved: tuple[str, Model]) -> None:
    assert capture(Path(saved[0])).mutations == ("count",)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="there is no file"):
        capture(tmp_path / "none.pt2")
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"not an archive")
    with pytest.raises(CaptureError, match=r"is not a \.pt2 archive"):
        capture(broken)


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (os.environ["EVIL"],)


@pytest.fixture()
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "evil"
    monkeypatch.setenv("EVIL", str(path))
    return path


def test_pickled_sample_inputs_are_refused(saved: tuple[str, Model], trap: Path) -> None:
    buffer = io.BytesIO()
    torch.save(((Evil(),), {}), buffer)
    path = rewritten(saved[0], lambda name, data: buffer.getvalue() if "sample_inputs" in name else data)
    with pytest.raises(CaptureError, match="trust=True"):
        capture(path)
    assert not trap.exists()


def test_pickled_weights_are_refused(saved: tuple[str, Model], trap: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            config = json.loads(data)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            return json.dumps(config).encode()
        return pickle.dumps(Evil()) if "/weight_" in name else data

    with pytest.raises(CaptureError, match="pickled objects"):
        capture(rewritten(saved[0], change))
    assert not trap.exists()


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').mkdir(1)", "s0.__class__", "exec(s0)", "lambda: s0", "source(s0)", "s0 if s0 else 1"],
)
def test_size_expressions_are_arithmetic_only(saved: tuple[str, Model], expression: str) -> None:
    def change(name: str, data: bytes) -> bytes:
        if not name.startswith("models/"):
            return data

        def edit(item: object) -> object:
            if isinstance(item, dict):
                return {k: expression if k == "expr_str" else edit(v) for k, v in item.items()}
            return [edit(v) for v in item] if isinstance(item, list) else item

        return json.dumps(edit(json.loads(data))).encode()

    with pytest.raises(CaptureError, match="not plain arithmetic"):
        capture(rewritten(saved[0], change))


def test_compiled_code_is_refused(saved: tuple[str, Model]) -> None:
    path = rewritten(saved[0], lambda name, data: data)
    assert reason_for_trust(path) is None
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/data/aotinductor/model/code.so", b"")
    assert "compiled code" in (reason_for_trust(path) or "")
