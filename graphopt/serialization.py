"""The saved form: a zip of IR text, safetensors weights and a JSON manifest. No pickle anywhere.

graph.txt             the text form; large constants by name and hash
weights.safetensors   the constants that are not inline
manifest.json         format and library versions, operator schemas, hashes, calling convention, target, and which
                      slices of the model's own tensors a pruned one keeps
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

import torch

from graphopt.convention_json import signature_from_json, signature_to_json
from graphopt.errors import GraphOptError, SerializationError, UnknownNameError
from graphopt.ir import Graph, Op, walk
from graphopt.ir.files import atomic_write
from graphopt.ir.op import MISSING
from graphopt.ir.printer import is_inline, printed_constants
from graphopt.ops import parse, registry
from graphopt.state_map import kept_from_json, kept_to_json, set_kept

FORMAT = 1
GRAPH, WEIGHTS, MANIFEST = "graph.txt", "weights.safetensors", "manifest.json"
_REQUIRED = ("graphopt", "torch", "schemas", "signature", "sha256")

# safetensors has no 128-bit complex numbers; they are stored as pairs, under a name that no value can have.
_PAIRS = "pairs\n"


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
    title = _title(source)
    manifest, text, weights = _read(source, title)
    for name, data in ((GRAPH, text), (WEIGHTS, weights)):
        if manifest["sha256"].get(name) != _digest(data):
            raise SerializationError(f"{title} is damaged: the content of {name} has another hash")
    _check_schemas(manifest, text.decode(), title)
    try:
        graph = parse(text.decode(), _unpack(weights))
    except GraphOptError as error:
        raise SerializationError(f"{title} holds a graph that this version cannot read: {error}") from error
    graph.signature = signature_from_json(manifest["signature"])
    graph.metadata = manifest.get("metadata", {})
    set_kept(graph, kept_from_json(manifest.get("kept", {})))
    return graph, manifest


def graph_to_bytes(graph: Graph, **facts: Any) -> bytes:
    """Return the saved form as bytes."""
    import io

    buffer = io.BytesIO()
    save_graph(graph, buffer, **facts)
    return buffer.getvalue()


# Writing


def _write(graph: Graph, manifest: dict[str, Any], file: IO[bytes]) -> None:
    _refuse_meta(graph)
    text, weights = str(graph).encode(), pack_constants(graph)
    manifest["sha256"] = {GRAPH: _digest(text), WEIGHTS: _digest(weights)}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ((MANIFEST, json.dumps(manifest, indent=1).encode()), (GRAPH, text), (WEIGHTS, weights)):
            # A fixed time stamp makes two saves of one graph equal byte for byte.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def _refuse_meta(graph: Graph) -> None:
    graphs = [graph, *(region for node in walk(graph) for region in node.regions)]
    for name, value in [item for g in graphs for item in g.constants.items()]:
        if value.constant is not None and value.constant.tensor.is_meta:
            raise SerializationError(f"{name!r} is on the meta device and holds no data; load the weights first")


def pack_constants(graph: Graph) -> bytes:
    """Return the constants that the text does not hold, by their names in the text, in safetensors form.

    Raises:
        SerializationError: a type of element that has no such form.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    for name, value in printed_constants(graph).items():
        if value.constant is None or is_inline(value.constant):
            continue
        tensor = value.constant.tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if tensor.dtype is torch.complex128:
            name, tensor = _PAIRS + name, torch.view_as_real(tensor)
        tensors[name] = tensor
    try:
        data: bytes = save(_separate(tensors))
    except (SafetensorError, KeyError, ValueError, NotImplementedError, RuntimeError) as error:
        raise SerializationError(f"the weights have no saved form: {type(error).__name__}: {error}") from error
    return data


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
        "signature": signature_to_json(graph.signature),
        **({"kept": kept} if (kept := kept_to_json(graph)) else {}),
        **({"metadata": dict(graph.metadata)} if graph.metadata else {}),
        **facts,
    }


def _schema(op: Op) -> list[list[str]]:
    return [[p.name, p.type, "" if p.default is MISSING else repr(p.default)] for p in op.params]


# Reading


def _read(source: Any, title: str) -> tuple[dict[str, Any], bytes, bytes]:
    try:
        with zipfile.ZipFile(source) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            _check_manifest(manifest, title)
            return manifest, archive.read(GRAPH), archive.read(WEIGHTS)
    except OSError as error:
        raise SerializationError(f"cannot read {title}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise SerializationError(f"{title} is no saved model, or damaged: {error}") from error
    except (KeyError, ValueError, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise SerializationError(f"{title} is no saved model, or damaged: {error}") from error


def _check_manifest(manifest: Any, title: str) -> None:
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(found, int):
        raise SerializationError(f"{title} is no saved model: its manifest names no format")
    if found != FORMAT:
        writer = f"graphopt {manifest.get('graphopt', 'of another version')}"
        remedy = "upgrade graphopt" if found > FORMAT else "compile the model anew"
        raise SerializationError(
            f"{title} was written by {writer} in format {found}, this version reads format {FORMAT}; {remedy}"
        )
    missing = [name for name in _REQUIRED if name not in manifest]
    if missing or not isinstance(manifest["sha256"], dict) or not isinstance(manifest["schemas"], dict):
        raise SerializationError(f"{title} is damaged: its manifest lacks {', '.join(missing) or 'hashes or schemas'}")


def _check_schemas(manifest: Mapping[str, Any], text: str, title: str) -> None:
    """A schema may have grown defaulted arguments at its end since the graph was saved, and nothing else."""
    for name, then in manifest["schemas"].items():
        try:
            now = _schema(registry.get(name))
        except UnknownNameError as error:
            raise SerializationError(
                f"{title} uses {name}, which is not registered here; import the library that defines it, then load "
                f"again ({_first_use(name, text)})"
            ) from error
        if now[: len(then)] != then or any(not default for _, _, default in now[len(then) :]):
            raise SerializationError(
                f"{title} was saved with torch {manifest['torch']}, where {name} has another schema than in the "
                f"installed {torch.__version__}; load it with that version, or compile the model anew "
                f"({_first_use(name, text)})"
            )


def _first_use(name: str, text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if f"{name}(" in line), "unused")
    return f"first use: {line if len(line) <= 160 else line[:157] + '...'}"


def _unpack(weights: bytes) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise SerializationError(f"the weights are damaged: {error}") from error
    return {
        name.removeprefix(_PAIRS): torch.view_as_complex(tensor) if name.startswith(_PAIRS) else tensor
        for name, tensor in tensors.items()
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _title(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "the data"
