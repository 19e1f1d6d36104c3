"""The saved form: a zip of IR text, safetensors weights and a JSON manifest. No pickle anywhere.

graph.txt             the text form; large constants by name and hash
weights.safetensors   the constants that are not inline
manifest.json         format and library versions, operator schemas, hashes, calling convention, target
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch.utils import _pytree as pytree

from graphopt.errors import SerializationError
from graphopt.ir import Graph, Literal, Node, Op, Signature, Slot, walk
from graphopt.ir.op import MISSING
from graphopt.ir.printer import is_inline
from graphopt.ops import parse, registry

FORMAT = 1
GRAPH, WEIGHTS, MANIFEST = "graph.txt", "weights.safetensors", "manifest.json"
_PLAIN = (type(None), bool, int, float, str)


def save_graph(graph: Graph, destination: str | os.PathLike[str] | IO[bytes], **facts: Any) -> None:
    """Write a graph, with `facts` (JSON values) in its manifest. A path is written atomically.

    Raises:
        SerializationError: the disk is full, or the calling convention has no JSON form.
    """
    manifest = _manifest(graph, facts)
    if not isinstance(destination, str | os.PathLike):
        _write(graph, manifest, destination)
        return
    with atomic_write(destination) as file:
        _write(graph, manifest, file)


def load_graph(source: str | os.PathLike[str] | IO[bytes]) -> tuple[Graph, dict[str, Any]]:
    """Read a graph and its manifest.

    Raises:
        SerializationError: no such file, not a saved graph, damaged, or written by an incompatible version.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            _check_manifest(manifest)
            text, weights = archive.read(GRAPH), archive.read(WEIGHTS)
    except (OSError, KeyError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise SerializationError(f"cannot read {_title(source)}: {error}") from error
    for name, data in ((GRAPH, text), (WEIGHTS, weights)):
        if manifest["sha256"].get(name) != _digest(data):
            raise SerializationError(f"{_title(source)} is damaged: the content of {name} has another hash")
    from safetensors.torch import load as load_tensors

    graph = parse(text.decode(), load_tensors(weights))
    _check_schemas(graph, manifest["schemas"], _title(source))
    graph.signature = _signature_from_json(manifest["signature"])
    return graph, manifest


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that replaces it only once everything is written.

    Raises:
        SerializationError: the file cannot be written; `path` is as it was.
    """
    final = Path(path)
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=final.parent, prefix=f".{final.name}.", delete=False) as file:
            temporary = file.name
            yield file  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
        temporary = None
    except OSError as error:
        raise SerializationError(f"cannot write {final}: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _write(graph: Graph, manifest: dict[str, Any], file: IO[bytes]) -> None:
    from safetensors.torch import save as save_tensors

    tensors = {
        name: value.constant.tensor.detach().cpu().contiguous()
        for name, value in graph.constants.items()
        if value.constant is not None and not is_inline(value.constant)
    }
    text, weights = str(graph).encode(), save_tensors(_separate(tensors))
    manifest["sha256"] = {GRAPH: _digest(text), WEIGHTS: _digest(weights)}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (
            (MANIFEST, json.dumps(manifest, indent=1).encode()),
            (GRAPH, text),
            (WEIGHTS, weights),
        ):
            # A fixed time stamp makes two saves of one graph equal byte for byte.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses tensors that share storage; views of one storage are copied."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if pointer in seen and tensor.numel() else tensor
        seen.add(pointer)
    return separate


def _manifest(graph: Graph, facts: dict[str, Any]) -> dict[str, Any]:
    from graphopt import __version__

    ops = dict.fromkeys(node.op for node in walk(graph))
    return {
        "format": FORMAT,
        "graphopt": __version__,
        "torch": torch.__version__,
        "schemas": {op.name: _schema(op) for op in ops},
        "signature": _signature_to_json(graph.signature),
        **facts,
    }


def _schema(op: Op) -> list[list[str]]:
    return [[p.name, p.type, "" if p.default is MISSING else repr(p.default)] for p in op.params]


def _check_manifest(manifest: dict[str, Any]) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise SerializationError(f"saved form {found!r} is not {FORMAT}, the one that this version of graphopt reads")


def _check_schemas(graph: Graph, saved: dict[str, list[list[str]]], title: str) -> None:
    """A schema may have grown defaulted arguments at its end since the graph was saved, and nothing else."""
    nodes: dict[str, Node] = {node.op.name: node for node in walk(graph)}
    for name, then in saved.items():
        if name not in nodes:
            continue
        now = _schema(registry.get(name))
        if now[: len(then)] != then or any(not default for _, _, default in now[len(then) :]):
            raise SerializationError(
                f"{title} uses {name} with another schema than the installed PyTorch {torch.__version__} has; "
                f"load it with the version that saved it, or compile the model anew (first use: {nodes[name].location})"
            )


def _signature_to_json(signature: Signature | None) -> dict[str, Any] | None:
    if signature is None:
        return None
    for leaf in (*signature.in_leaves, *signature.out_leaves):
        if isinstance(leaf, Literal) and not isinstance(leaf.value, _PLAIN):
            raise SerializationError(
                f"an argument or result is fixed to {leaf.value!r}, which has no saved form; "
                "pass numbers, strings or tensors"
            )
    try:
        trees = [pytree.treespec_dumps(signature.in_tree), pytree.treespec_dumps(signature.out_tree)]
    except NotImplementedError as error:
        raise SerializationError(f"the model's arguments or results have no serialisable structure: {error}") from error
    return {
        "in_tree": trees[0],
        "out_tree": trees[1],
        "in_leaves": [_leaf_to_json(leaf) for leaf in signature.in_leaves],
        "out_leaves": [_leaf_to_json(leaf) for leaf in signature.out_leaves],
        "in_names": list(signature.in_names),
    }


def _signature_from_json(data: dict[str, Any] | None) -> Signature | None:
    if data is None:
        return None
    try:
        trees = [pytree.treespec_loads(data["in_tree"]), pytree.treespec_loads(data["out_tree"])]
    except (KeyError, NotImplementedError, AssertionError) as error:
        raise SerializationError(
            f"the model's arguments or results use a type that is not registered here ({error}); import the library "
            "that defines it first"
        ) from error
    return Signature(
        trees[0],
        trees[1],
        tuple(_leaf_from_json(leaf) for leaf in data["in_leaves"]),
        tuple(_leaf_from_json(leaf) for leaf in data["out_leaves"]),
        tuple(data["in_names"]),
    )


def _leaf_to_json(leaf: Slot | Literal) -> dict[str, Any]:
    return {"slot": leaf.index} if isinstance(leaf, Slot) else {"literal": leaf.value}


def _leaf_from_json(data: dict[str, Any]) -> Slot | Literal:
    return Slot(data["slot"]) if "slot" in data else Literal(data["literal"])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _title(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "the data"


def graph_to_bytes(graph: Graph, **facts: Any) -> bytes:
    """Return the saved form as bytes."""
    buffer = io.BytesIO()
    save_graph(graph, buffer, **facts)
    return buffer.getvalue()
