"""Which format the weight of each layer gets: the one in all, or one that was asked for by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import Format, find_format
from graphopt.passes.support.globs import check_globs, first_fitting, names_of, parted

FLOAT = "float"
"""In the place of a format: the layer is left in floating point."""


def settled(formats: Mapping[str, str], widest: int) -> dict[str, str]:
    """Check formats by name. widest: the most bits that one may have.

    Raises:
        GraphOptError: they are no mapping, or one is not of integers, or too wide.
        UnknownNameError: there is no such format.
    """
    if not isinstance(formats, Mapping):
        raise GraphOptError(f'formats takes names with their formats, as {{"layer1.*": "int4"}}, got {formats!r}')
    for name, text in formats.items():
        if text == FLOAT:
            continue
        found = find_format(text)
        if found.is_float or found.bits > widest:
            raise GraphOptError(
                f"{found.name}, given for {name!r}, is no format of weights here; choose integers of 2 to {widest} "
                f"bits, or {FLOAT!r}"
            )
    return dict(formats)


class LayerFormats:
    """Formats by name or glob of a node; the first that fits counts, and `default` where none does.

    ignored: names or globs of what is left in floating point, whatever else is said.
    names: all that could have been meant. owner: of the options, and kind: of what has the names, for messages.

    Raises:
        UnknownNameError: a name that nothing has; the message suggests near ones.
    """

    def __init__(
        self,
        default: str,
        formats: Mapping[str, str],
        ignored: tuple[str, ...],
        names: Iterable[str],
        owner: str,
        kind: str = "operator",
    ) -> None:
        self.default = default
        self.formats = formats
        self.ignored = ignored
        known = sorted(set(names))
        for globs, role in ((ignored, "as one to ignore"), (formats, "in formats")):
            check_globs(globs, known, kind, f"It was given to {owner} {role}.")

    def why_float(self, names: Iterable[str]) -> str | None:
        """Why what has these names is left in floating point on request, or None."""
        given = list(names)
        ignored = first_fitting(self.ignored, given)
        if ignored is not None:
            return f"ignored as {ignored!r}"
        asked = first_fitting(self.formats, given)
        return f"asked for as {asked!r}" if asked is not None and self.formats[asked] == FLOAT else None

    def of(self, names: Iterable[str]) -> Format:
        """The format of what has these names, and is not left in floating point."""
        glob = first_fitting(self.formats, list(names))
        return find_format(self.default if glob is None else self.formats[glob])


def node_names(node: Node) -> list[str]:
    """What a node goes by: its operator, its result, its module, and the stored tensors that it reads."""
    return [*names_of(node), *(name for value in node.inputs for name in weight_names(value))]


def weight_names(value: Value) -> list[str]:
    """What a stored tensor goes by: its name in the graph, and those in the model; all, if it was made of several."""
    return [] if value.constant is None else [*dict.fromkeys((value.name, *parted(value.name))), *value.constant.names]


def graph_names(graph: Graph) -> list[str]:
    """The names of all nodes."""
    return [name for node in graph for name in node_names(node)]
