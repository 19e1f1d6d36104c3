"""Operators without a lowering, through the exporter library that PyTorch itself uses.

The operator alone becomes a program, `torch.onnx.export` translates it, and its operations are put in the place of the
node. A translation costs about a second and is kept for the operator, operand types and attributes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Body, Operation, Tensor
from graphopt.errors import EmissionError
from graphopt.ir import DType, Expr, Node, TensorType, Trait, Type
from graphopt.ir.dims import evaluate, linear_in
from graphopt.ops import torch_arguments
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

_CACHE_LIMIT = 256
_cache: dict[Any, gs.Graph] = {}


def lower_by_exporter(e: Emitter, node: Node, operands: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Lower a node as `torch.onnx.export` does.

    Raises:
        EmissionError: the exporter has no translation for the operator either.
    """
    types = tuple(None if v is None else v.type for v in node.operands)
    key = (node.op, types, node.attributes, e.opset)
    fragment = _cache.get(key)
    if fragment is None:
        if len(_cache) >= _CACHE_LIMIT:
            _cache.clear()
        fragment = _cache[key] = _translate(node, types, e.opset)
    present = [t for t in operands if t is not None]
    return _Inliner(e).inline(fragment, present, [r.type for r in node.results])


class _OneNode(torch.nn.Module):
    """The operator as a module of its tensor operands. Sizes in its attributes are computed from theirs."""

    def __init__(self, node: Node, types: Sequence[Type | None]) -> None:
        super().__init__()
        self.node = node
        self.types = types

    def forward(self, *tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        operands = [None if type_ is None else next(given) for type_ in self.types]
        sizes: dict[str, Any] = {}
        for type_, operand in zip(self.types, operands):
            if isinstance(type_, TensorType) and operand is not None:
                sizes.update(_solved(type_, operand))
        args, kwargs = torch_arguments(self.node.op, operands, self.node.attributes, lambda dim: evaluate(dim, sizes))
        assert self.node.op.evaluate is not None
        result = self.node.op.evaluate(*args, **kwargs)
        return tuple(result) if isinstance(result, list | tuple) else result


def _solved(type_: TensorType, tensor: torch.Tensor) -> Iterator[tuple[str, Any]]:
    for dim, size in zip(type_.shape, tensor.shape):
        linear = None if isinstance(dim, int) else linear_in(dim)
        if linear is not None:
            symbol, factor, offset = linear
            yield symbol.name, (size - offset) // factor


def _translate(node: Node, types: Sequence[Type | None], opset: int) -> gs.Graph:
    import onnx_graphsurgeon as gs

    if node.op.evaluate is None:
        raise EmissionError("the operator has no PyTorch meaning from which to translate it")
    results = [r.type for r in node.results]
    if any(isinstance(t, TensorType) and t.dtype.is_complex for t in (*types, *results)):
        raise EmissionError("complex tensors have no ONNX form; split them into real and imaginary parts")
    module = _OneNode(node, types).eval()
    model = _export(module, types, opset)
    fragment = gs.import_onnx(model).cleanup().toposort()
    _check(fragment, results)
    if not node.op.has(Trait.RANDOM):
        _validate(model, module, types)
    return fragment


def _check(fragment: gs.Graph, results: Sequence[Type]) -> None:
    """Refuse a translation that leaves a result without a value."""
    import onnx_graphsurgeon as gs

    inputs = {id(variable) for variable in fragment.inputs}
    made = [v for v in fragment.outputs if v.inputs or isinstance(v, gs.Constant) or id(v) in inputs]
    if len(made) != len(results):
        raise EmissionError(f"torch.onnx.export translates {len(made)} of its {len(results)} results")


def _validate(model: onnx.ModelProto, module: _OneNode, types: Sequence[Type | None]) -> None:
    """Hold the translation against PyTorch on one set of numbers: exporters have been wrong without a word.

    Where there is no ONNX Runtime, or either side cannot run on the sample, nothing is known and nothing refused.
    """
    if find_spec("onnxruntime") is None:
        return
    examples = [_example(t, sampled=True) for t in types if t is not None]
    try:
        import onnxruntime

        with _quiet(), torch.no_grad():
            expected = module(*examples)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), examples)}
        found = [torch.from_numpy(array) for array in session.run(None, feeds)]
    except Exception:
        return
    for want, have in zip(expected if isinstance(expected, tuple) else (expected,), found):
        close = want.shape == have.shape and torch.allclose(
            want.double(), have.double(), rtol=1e-3, atol=1e-4, equal_nan=True
        )
        if not close:
            raise EmissionError("torch.onnx.export translates it, but to something that gives other numbers")


def _export(module: _OneNode, types: Sequence[Type | None], opset: int) -> onnx.ModelProto:
    present = [t for t in types if t is not None]
    examples = tuple(_example(t) for t in present)
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(t.shape) if isinstance(dim, Expr)}
        for t in present
        if isinstance(t, TensorType)
    )
    try:
        with _quiet(), torch.no_grad():
            exported = torch.export.export(module, examples, dynamic_shapes=(dynamic,), strict=False)
            program = torch.onnx.export(exported, dynamo=True, opset_version=opset, optimize=True, verbose=False)
            assert program is not None
            return program.model_proto
    except Exception as error:
        raise EmissionError(f"torch.onnx.export cannot translate it either: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def _example(type_: Type, sampled: bool = False) -> torch.Tensor:
    """Zeros of the type, each symbol at a small size of its own; sampled, numbers in (0, 1), or 0 and 1."""
    if not isinstance(type_, TensorType):
        raise EmissionError(f"an operand is {type_!r}, not a tensor")
    sizes = _Sizes()
    shape = [evaluate(dim, sizes) for dim in type_.shape]
    if not sampled:
        return torch.zeros(shape, dtype=type_.dtype.torch)
    generator = torch.Generator().manual_seed(len(shape))
    numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (numbers if type_.dtype.is_floating else numbers > 0.5).to(type_.dtype.torch)


class _Sizes(Mapping[str, int]):
    """A size for any symbol: away from 0 and 1, and by its name, so that different symbols seldom agree."""

    def __getitem__(self, name: str) -> int:
        return 2 * (3 + sum(map(ord, name)) % 11)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings and progress out of the user's terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class _Inliner:
    """Copies the operations of a fragment into the emitter's body."""

    def __init__(self, e: Emitter) -> None:
        self.e = e
        self.tensors: dict[int, Tensor] = {}

    def inline(self, graph: gs.Graph, operands: Sequence[Tensor], types: Sequence[Type]) -> list[Tensor]:
        for variable, tensor in zip(graph.inputs, operands):
            self.tensors[id(variable)] = tensor
        for variable, type_ in zip(graph.outputs, types):
            if id(variable) not in self.tensors and isinstance(type_, TensorType):
                self.tensors[id(variable)] = Tensor(type_.dtype, type_.shape)
        self.e.body.operations.extend(self._operation(node) for node in graph.nodes)
        return [self._tensor(variable) for variable in graph.outputs]

    def _operation(self, node: Any) -> Operation:
        attributes = {name: self._attribute(value) for name, value in node.attrs.items()}
        inputs = [None if i.is_empty() else self._tensor(i) for i in node.inputs]
        outputs = [self._tensor(o) for o in node.outputs]
        return Operation(node.op, inputs, outputs, attributes, node.domain or "", self.e.origin)

    def _tensor(self, variable: Any) -> Tensor:
        found = self.tensors.get(id(variable))
        if found is None:
            found = self._new_tensor(variable)
            self.tensors[id(variable)] = found
        return found

    def _new_tensor(self, variable: Any) -> Tensor:
        import onnx_graphsurgeon as gs

        if isinstance(variable, gs.Constant):
            return self.e.constant(torch.from_numpy(variable.values.copy()))
        dtype = None if variable.dtype is None else _dtype(variable.dtype)
        return Tensor(dtype or DType.F32, None)

    def _attribute(self, value: Any) -> Any:
        import numpy as np
        import onnx_graphsurgeon as gs

        if isinstance(value, gs.Graph):
            return self._body(value)
        if isinstance(value, gs.Constant):
            return torch.from_numpy(value.values.copy())
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value.copy())
        if isinstance(value, list):
            return [item.item() if isinstance(item, np.generic) else item for item in value]
        if isinstance(value, type | np.dtype):
            import onnx

            return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value)))
        return value.item() if isinstance(value, np.generic) else value

    def _body(self, graph: gs.Graph) -> Body:
        from graphopt.backends.onnx.model import body_outputs

        with self.e.inside(graph.name or "body") as body:
            body.inputs = [self._tensor(variable) for variable in graph.inputs]
            body.operations = [self._operation(node) for node in graph.nodes]
            body.outputs = body_outputs(self.e, [self._tensor(variable) for variable in graph.outputs])
        return body


def _dtype(dtype: Any) -> DType | None:
    import numpy as np
    import onnx

    code = dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return FROM_ONNX_CODE.get(int(code))
