"""The `onnx.*` dialect: nodes of ONNX files that no ATen operator expresses, carried as they are.

`onnx.Foo` is operator `Foo` of the standard domain, `onnx.com.microsoft.Foo` that of `com.microsoft`. A node has the
attributes that the file gives it (see `onnx_attributes`), and these, whose names no ONNX attribute can have:

    onnx.opset      the version of the operator's domain that the node means
    onnx.outputs    which outputs the results are, (0,) by default: an output without a name is no result
    onnx.captured   names by which graphs among the attributes use outer values; the last operands are those values
    onnx.kinds      types of operands that their values don't tell ("seq<f32>", "i4"); "" for the others
    onnx.imports    versions of the other domains that such graphs use: ("", 20, "com.microsoft", 1)

Types are those that the node was read with: nothing infers them anew. The operators of the standard are functions of
their operands, apart from those that draw random numbers; of an operator without a schema nothing is known, so it
counts as random: it may be dropped, but never merged or computed ahead of time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from graphopt.ir import Node, Op, Param, ParamKind, Trait
from graphopt.ops.onnx_attributes import attribute_to_proto
from graphopt.ops.onnx_nested import STANDARD, short_domain
from graphopt.ops.registry import registry

if TYPE_CHECKING:
    import onnx

DIALECT = "onnx"
OPSET, OUTPUTS, CAPTURED = "onnx.opset", "onnx.outputs", "onnx.captured"
KINDS, IMPORTS = "onnx.kinds", "onnx.imports"

_PARAMS = (
    Param("inputs", ParamKind.VARIADIC, "Tensor?[]"),
    Param(OPSET, ParamKind.ATTRIBUTE, "int"),
    Param(OUTPUTS, ParamKind.ATTRIBUTE, "int[]", (0,)),
    Param(CAPTURED, ParamKind.ATTRIBUTE, "str[]", ()),
    Param(KINDS, ParamKind.ATTRIBUTE, "str[]", ()),
    Param(IMPORTS, ParamKind.ATTRIBUTE, "any", ()),
)
_OWN = frozenset(param.name for param in _PARAMS)
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"]
)
_KNOWN_DOMAINS = frozenset(["com.microsoft"])
"""Domains without schemas in the onnx package, whose operators are functions of their operands all the same."""


def op_name(domain: str, op_type: str) -> str:
    """Return the name of an ONNX operator in the IR.

    >>> op_name("", "Det"), op_name("com.microsoft", "FastGelu")
    ('onnx.Det', 'onnx.com.microsoft.FastGelu')
    """
    last = op_type.replace("%", "%25").replace(".", "%2E")
    domain = short_domain(domain)
    return f"{DIALECT}.{domain}.{last}" if domain else f"{DIALECT}.{last}"


def domain_and_type(name: str) -> tuple[str, str]:
    """Return the domain and the name of the operator that the IR calls `name`; the inverse of `op_name`.

    >>> domain_and_type("onnx.com.microsoft.FastGelu")
    ('com.microsoft', 'FastGelu')
    """
    domain, _, last = name.removeprefix(f"{DIALECT}.").rpartition(".")
    return domain, last.replace("%2E", ".").replace("%25", "%")


def is_opaque(node: Node) -> bool:
    """True for a node of the dialect."""
    return node.op.dialect == DIALECT


def counted(nodes: Iterable[Node]) -> str:
    """Return the ONNX operators of some nodes with their numbers: "Foo ×2, Bar"."""
    counts = Counter(node.op.name.removeprefix(f"{DIALECT}.") for node in nodes)
    return ", ".join(name if count == 1 else f"{name} ×{count}" for name, count in counts.items())


def node_proto(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: dict[str, Any],
    positions: Sequence[int] = (0,),
) -> onnx.NodeProto:
    """Return the ONNX node of an IR operator.

    inputs: names of the operands, "" for an absent one, without captured values. outputs: names of the results, which
        are the outputs at `positions`. attributes: those of the node; the dialect's own are left out.
    """
    from onnx import NodeProto

    proto = NodeProto()
    proto.domain, proto.op_type = domain_and_type(name)
    proto.input.extend(inputs)
    named = dict(zip(positions, outputs))
    proto.output.extend([named.get(position, "") for position in range(max(named, default=-1) + 1)])
    proto.attribute.extend([attribute_to_proto(k, v) for k, v in attributes.items() if k not in _OWN])
    return proto


def imports_of(name: str, attributes: Any) -> dict[str, int]:
    """Return the opset version of each domain that a node and the graphs in it use."""
    others = attributes.get(IMPORTS, ())
    return {**dict(zip(others[::2], others[1::2])), domain_and_type(name)[0]: attributes[OPSET]}


def _resolve(name: str) -> Op | None:
    domain, op_type = domain_and_type(name)
    if not op_type:
        return None
    traits = frozenset([Trait.RANDOM if _may_be_random(domain, op_type) else Trait.PURE])
    return Op(name, _PARAMS, traits, evaluate=partial(_evaluate, name), open=True)


def _may_be_random(domain: str, op_type: str) -> bool:
    """Decided by name, so that parsing needs no schemas: the standard's domains hold no other random operators."""
    return op_type in _RANDOM or not (not domain or domain.startswith(STANDARD) or domain in _KNOWN_DOMAINS)


def _evaluate(
    name: str,
    inputs: Sequence[Any],
    opset: int,
    outputs: Sequence[int] = (0,),
    captured: Sequence[str] = (),
    kinds: Sequence[str] = (),
    imports: Sequence[Any] = (),
    /,
    **attributes: Any,
) -> list[Any]:
    from graphopt.ops.onnx_runtime import run_node

    every = {OPSET: opset, OUTPUTS: outputs, CAPTURED: captured, KINDS: kinds, IMPORTS: imports, **attributes}
    return run_node(name, inputs, every)


registry.register_dialect(DIALECT, _resolve)
