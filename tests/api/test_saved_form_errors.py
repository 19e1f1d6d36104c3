"""The saved form: nothing half-written, nothing damaged taken for sound, nothing run."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import stat
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import graphopt
from graphopt import serialization
from graphopt.errors import SerializationError
from graphopt.ir import difference, files, verify
from graphopt.ir.op import Op, Param, ParamKind
from graphopt.ops import parse, registry
from graphopt.serialization import graph_to_bytes, load_graph, save_graph
from tests.api.archives import rewritten, saved_model, stored
from tests.api.models import small

Point = namedtuple("Point", "x y")


@pytest.fixture(scope="module")
def saved() -> bytes:
    return saved_model()


# What may not happen


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small()
    fast = graphopt.compile(model, (x,), target="eager")
    path = tmp_path / "model.gopt"
    path.write_bytes(b"old")

    class Full(io.BufferedIOBase):
        def __init__(self, file: Any) -> None:
            self.file, self.name, self.room = file, file.name, 1000

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.close()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if len(data) > self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= len(data)
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    original = files.tempfile.NamedTemporaryFile
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", lambda **o: Full(original(**o)))
    with pytest.raises(SerializationError, match=r"cannot write .*model.gopt: No space left on device"):
        fast.save(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.gopt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_the_last_moment_leaves_the_old_file(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "graph"
    path.write_bytes(b"old")

    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(serialization.os, step, fail)
    with pytest.raises(SerializationError, match=r"Input/output error"):
        save_graph(stored(torch.ones(3)), path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["graph"]


def test_an_error_of_another_kind_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "graph"
    path.write_bytes(b"old")
    with pytest.raises(SerializationError, match=r"on the meta device and holds no data"):
        save_graph(stored(torch.empty(100, device="meta")), path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["graph"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "x.gopt", tmp_path):
        with pytest.raises(SerializationError, match=r"cannot write"):
            save_graph(stored(torch.ones(3)), path)
    assert os.listdir(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "graph"
    (tmp_path / "plain").write_bytes(b"")
    save_graph(stored(torch.ones(3)), path)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o600)
    save_graph(stored(torch.ones(3)), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("keep", [0, 10, 100, 0.5, -1])
def test_a_file_that_was_cut_off(keep: float, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gopt"
    path.write_bytes(saved[: int(len(saved) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(SerializationError, match=r"cut.gopt is no saved model, or damaged"):
        graphopt.load(path)


def test_every_flipped_byte_is_noticed(saved: bytes) -> None:
    """Or it does no harm: a zip has fields that nobody reads."""
    want = difference
    graph, _ = load_graph(io.BytesIO(saved))
    for position in range(0, len(saved), 97):
        damaged = bytearray(saved)
        damaged[position] ^= 0xFF
        try:
            found, _ = load_graph(io.BytesIO(bytes(damaged)))
        except SerializationError:
            continue
        assert want(graph, found) is None


def test_wrong_hashes(saved: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        text = archive.read("graph.txt")
    changed = text.replace(b"eps=1e-05", b"eps=1e-04").replace(b"aten.relu", b"aten.tanh")
    assert changed != text
    with pytest.raises(SerializationError, match=r"damaged: the content of graph.txt has another hash"):
        load_graph(rewritten(saved, graph=changed))
    with pytest.raises(SerializationError, match=r"damaged: the content of weights.safetensors has another hash"):
        load_graph(rewritten(saved, weights=b"nothing"))


def test_missing_parts(saved: bytes) -> None:
    for part in ("graph", "weights", "manifest"):
        with pytest.raises(SerializationError, match=r"no saved model, or damaged"):
            load_graph(rewritten(saved, **{part: None}))
    with pytest.raises(SerializationError, match=r"lacks sha256"):
        load_graph(rewritten(saved, manifest=lambda m: m.pop("sha256") and None))
    for manifest in (b"[]", b"{}", b"not json", b"\xff\xfe"):
        with pytest.raises(SerializationError):
            load_graph(rewritten(saved, manifest=manifest))


def test_versions_of_the_format(saved: bytes) -> None:
    newer = rewritten(saved, manifest=lambda m: {"format": 2, "graphopt": "9.0"})
    with pytest.raises(SerializationError, match=r"written by graphopt 9.0 in format 2.*upgrade graphopt"):
        graphopt.load(newer)
    older = rewritten(saved, manifest=lambda m: m.update(format=0))
    with pytest.raises(SerializationError, match=r"in format 0.*compile the model anew"):
        graphopt.load(older)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(SerializationError, match=r"cannot read .*none.gopt: No such file"):
        graphopt.load(tmp_path / "none.gopt")
    with pytest.raises(SerializationError, match=r"Is a directory"):
        graphopt.load(tmp_path)


def test_a_graph_alone_needs_a_target() -> None:
    model, x = small()
    data = graph_to_bytes(graphopt.trace(model, (x,)))
    with pytest.raises(SerializationError, match=r"holds a graph alone; give graphopt.load a target"):
        graphopt.load(io.BytesIO(data))
    torch.testing.assert_close(graphopt.load(io.BytesIO(data), target="fx")(x), model(x))


# Schemas


def _registered(name: str, *params: Param) -> Op:
    def double(x: Tensor, factor: int = 2, offset: int = 5) -> Tensor:
        return x * factor + (offset if any(p.name == "offset" for p in params) else 0)

    op = Op(name, params, infer=lambda call: call.operand_types, evaluate=double)
    registry._ops[name] = op
    return op


X = Param("x", ParamKind.OPERAND)
FACTOR = Param("factor", ParamKind.ATTRIBUTE, "int", 2)
OFFSET = Param("offset", ParamKind.ATTRIBUTE, "int", 5)
TEXT = """
    input %x: f32[3]
    %y = test.double(%x) {factor=3}
    return %y"""


@pytest.fixture
def with_operator() -> Any:
    name = "test.double"
    _registered(name, X, FACTOR)
    yield graph_to_bytes(parse(TEXT))
    registry._ops.pop(name, None)


def test_defaulted_trailing_arguments_may_be_added(with_operator: bytes) -> None:
    from graphopt.analysis import run_graph

    _registered("test.double", X, FACTOR, OFFSET)
    graph, _ = load_graph(io.BytesIO(with_operator))
    (node,) = graph
    assert node.attr("offset") == 5 and node.arguments()["offset"] == 5 and node.attr("factor") == 3
    assert run_graph(graph, torch.ones(3))[0].tolist() == [8.0, 8.0, 8.0]
    verify(graph)


@pytest.mark.parametrize(
    "params",
    [
        (X,),
        (X, Param("factor", ParamKind.ATTRIBUTE, "int", 3)),
        (X, Param("factor", ParamKind.ATTRIBUTE, "float", 2)),
        (X, Param("times", ParamKind.ATTRIBUTE, "int", 2)),
        (X, OFFSET, FACTOR),
        (X, FACTOR, Param("needed", ParamKind.ATTRIBUTE, "int")),
    ],
)
def test_other_changes_of_a_schema_are_refused(with_operator: bytes, params: tuple[Param, ...]) -> None:
    _registered("test.double", *params)
    message = r"test.double has another schema.*compile the model anew .first use: %y: f32\[3\] = test.double\(%x\)"
    with pytest.raises(SerializationError, match=message):
        load_graph(io.BytesIO(with_operator))


def test_an_operator_that_is_not_registered(with_operator: bytes) -> None:
    registry._ops.pop("test.double")
    with pytest.raises(SerializationError, match=r"uses test.double, which is not registered here; import the library"):
        load_graph(io.BytesIO(with_operator))


# Safety


def test_loading_neither_unpickles_nor_imports_nor_extracts(
    saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib
    import pickle

    graphopt.load(io.BytesIO(saved))  # imports what it needs

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"loading used {args[:1]}")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, refuse)
    monkeypatch.setattr(importlib, "import_module", refuse)
    monkeypatch.setattr(zipfile.ZipFile, "extract", refuse)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", refuse)
    load_graph(io.BytesIO(saved))


def test_a_manifest_cannot_import(saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own reader of trees imports what a defaultdict or an enum names."""
    (tmp_path / "gopt_trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    leaf = None
    trees = [
        {"type": "collections.defaultdict", "context": ["gopt_trap", ["a"]], "children": [leaf]},
        {"type": "collections.defaultdict", "context": ["system", ["a"]], "children": [leaf]},
        {"type": "gopt_trap.Trap", "context": None, "children": [leaf]},
        {"type": "builtins.dict", "context": [{"__enum__": True, "fqn": "gopt_trap:T", "name": "A"}], "children": []},
        {"type": ["builtins.dict"], "context": [], "children": []},
    ]
    for tree in trees:

        def edit(manifest: dict[str, Any], tree: Any = tree) -> None:
            manifest["signature"]["out_tree"] = tree

        try:
            graph, _ = load_graph(rewritten(saved, manifest=edit))
        except SerializationError:
            continue
        assert graph.signature is not None and graph.signature.out_tree.context == tree["context"]
    assert "gopt_trap" not in sys.modules


def test_names_in_the_archive_are_never_paths(saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inside").mkdir()
    evil = tmp_path / "inside" / "evil.gopt"
    evil.write_bytes(saved)
    with zipfile.ZipFile(evil, "a") as archive:
        archive.writestr("../outside.txt", "x")
        archive.writestr("/tmp/graphopt-outside.txt", "x")
    model, x = small()
    torch.testing.assert_close(graphopt.load(evil)(x), model(x).detach(), atol=1e-5, rtol=1e-4)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.gopt", "inside"]
    assert not Path("/tmp/graphopt-outside.txt").exists()


def test_saved_bytes_hold_no_pickle(saved: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        assert sorted(archive.namelist()) == ["graph.txt", "manifest.json", "weights.safetensors"]
        manifest = json.loads(archive.read("manifest.json"))
    assert {"format", "graphopt", "torch", "schemas", "sha256", "signature", "target", "engine"} <= set(manifest)
    assert manifest["torch"] == torch.__version__
    assert "aten.conv2d" in manifest["schemas"]
