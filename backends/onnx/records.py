"""What the emitter builds before anything is written: tensors, operations and bodies, tied by reference.

Names are given last, so a lowering never has to invent one, and what nothing uses costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from graphopt.ir import DType, Expr, Node, Type, Value
from graphopt.ir.dims import Dim, linear_in, symbols_of
from graphopt.ops.onnx_metadata import Note


class Tensor:
    """A value of the ONNX graph.

    shape: None where a lowering did not say. name: what it should be called; made unique in the end.
    data: the elements, if it is an initializer. type: of a sequence or optional; `dtype` is then that of its elements.
    """

    __slots__ = ("data", "dtype", "is_output", "name", "shape", "type")

    def __init__(
        self, dtype: DType, shape: tuple[Dim, ...] | None, name: str = "", data: torch.Tensor | None = None
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.name = name
        self.data = data
        self.is_output = False
        self.type: Type | None = None

    @property
    def rank(self) -> int:
        """The number of dims."""
        return len(self.dims)

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The shape, where it must be known."""
        if self.shape is None:
            raise AssertionError(f"the shape of {self!r} is needed but was not recorded")
        return self.shape

    def __repr__(self) -> str:
        shape = "?" if self.shape is None else ", ".join(map(str, self.shape))
        return f"{self.name or '<unnamed>'}: {self.dtype.value}[{shape}]"


class Operation:
    """A node of the ONNX graph. `origin` is the IR node that it was made for.

    captured: what graphs among its attributes that are given as protocol buffers use of the graph around, by the names
    that they use. imports: versions of domains that the operation and such graphs need. positions: which outputs of the
    operator `outputs` are, if not the first ones. name, note: given last.
    """

    __slots__ = (
        "attributes",
        "captured",
        "domain",
        "imports",
        "inputs",
        "name",
        "note",
        "op_type",
        "origin",
        "outputs",
        "positions",
    )

    def __init__(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[Tensor],
        attributes: dict[str, Any],
        domain: str = "",
        origin: Node | None = None,
    ) -> None:
        self.op_type = op_type
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.attributes = attributes
        self.domain = domain
        self.origin = origin
        self.captured: dict[str, Tensor] = {}
        self.imports: dict[str, int] = {}
        self.positions: tuple[int, ...] | None = None
        self.name = ""
        self.note = Note()

    @property
    def uses(self) -> Iterator[Tensor]:
        """The tensors that the operation reads, those that its graphs capture included."""
        yield from (t for t in self.inputs if t is not None)
        yield from self.captured.values()

    def bodies(self) -> Iterator[Body]:
        """The subgraphs among the attributes."""
        return (value for value in self.attributes.values() if isinstance(value, Body))


class Body:
    """A graph or subgraph under construction. A body sees everything of the bodies around it.

    values: the tensor of each IR value. made: what was built once to be shared.
    axes, shapes, solvable: where a dim, a whole shape or a symbol can be read off a tensor.
    """

    def __init__(self, name: str, parent: Body | None = None) -> None:
        self.name = name
        self.parent = parent
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.operations: list[Operation] = []
        self.values: dict[Value, Tensor] = {}
        self.axes: dict[Expr, tuple[Tensor, int]] = {}
        self.shapes: dict[tuple[Dim, ...], Tensor] = {}
        self.solvable: dict[str, tuple[Tensor, int, int, int]] = {}
        self.made: dict[Any, Tensor] = {}

    def chain(self) -> Iterator[Body]:
        """This body and those around it, innermost first."""
        body: Body | None = self
        while body is not None:
            yield body
            body = body.parent

    def record_shape(self, tensor: Tensor, is_input: bool) -> None:
        """Remember that the dims of `tensor` can be read off it.

        Of an intermediate only the dims that no input tells are remembered: reading the shape of a tensor keeps a
        runtime from fusing it away.
        """
        shape = tensor.shape
        if shape is None or all(type(dim) is int for dim in shape):
            return
        if is_input:
            self.shapes.setdefault(shape, tensor)
        for axis, dim in enumerate(shape):
            if isinstance(dim, Expr) and (is_input or not self.tells(dim)):
                self.record_dim(dim, tensor, axis)

    def tells(self, dim: Expr) -> bool:
        """True if every symbol of `dim` can be read off something recorded here or around."""
        return all(any(s.name in body.solvable for body in self.chain()) for s in symbols_of(dim))

    def record_dim(self, dim: Expr, tensor: Tensor, axis: int) -> None:
        """Remember that `dim` is the size of `tensor` along `axis`; axis -1 means the number that it holds."""
        if dim in self.axes:
            return
        self.axes[dim] = tensor, axis
        linear = linear_in(dim)
        if linear is not None:
            symbol, factor, offset = linear
            self.solvable.setdefault(symbol.name, (tensor, axis, factor, offset))
