"""Names of FX nodes and of attributes: what the model's author would recognise."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Iterable

from graphopt.ir import Graph, Node

_NOT_WORD = re.compile(r"\W")
_MODULE_PATH = re.compile(r"\w+(\.\w+)*")
_UNSAFE = re.compile(r"[\"'\\\s\x00-\x1f]")


def identifier(text: str) -> str:
    """Return `text` with everything that an identifier cannot hold replaced by `_`."""
    return _NOT_WORD.sub("_", text)


def parameter_names(texts: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return names for the parameters of one function: valid, distinct, and none of `taken`."""
    used = {"self", *taken}
    names = []
    for text in texts:
        base = identifier(text) or "_"
        base = f"_{base}" if base[0].isdigit() else base
        base = f"{base}_" if keyword.iskeyword(base) else base
        name, number = base, 0
        while name in used:
            number += 1
            name = f"{base}_{number}"
        used.add(name)
        names.append(name)
    return names


def is_module_path(text: str) -> bool:
    """True for dotted names such as `layer1.0.conv`."""
    return _MODULE_PATH.fullmatch(text) is not None


def attribute_path(name: str) -> list[str]:
    """Split a qualified name into attributes; only what cannot stand in generated code is changed."""
    parts = [_UNSAFE.sub("_", part) or "_" for part in name.split(".")]
    return [f"{part}_" if keyword.iskeyword(part) else part for part in parts]


class NodeNames:
    """Names the nodes of a graph: by the value's own name, else by the module that it came from."""

    def __init__(self, graph: Graph) -> None:
        self._in_scope = Counter(node.location.scope for node in graph)

    def of(self, node: Node) -> str | None:
        """Return a name for the result of `node`, or None to let FX choose one from the operator."""
        if len(node.results) == 1 and node.results[0].name:
            return identifier(node.results[0].name)
        scope = node.location.scope
        if not scope:
            return identifier(base_name(node))
        if self._in_scope[scope] == 1:
            return identifier(scope)
        return identifier(f"{scope}_{base_name(node)}")


def base_name(node: Node) -> str:
    """The operator's name without dialect and overload."""
    parts = node.op.name.split(".")
    return parts[1] if len(parts) > 1 else parts[0]
