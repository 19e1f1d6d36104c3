"""The engines that run FX modules: PyTorch eager, and inductor with frozen weights."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.backends.fx.channels_last import channels_last_inputs, has_convolutions, with_channels_last
from graphopt.backends.fx.emit import emit_function, emit_fx
from graphopt.ir import DType, Graph, TensorType, Trait, walk
from graphopt.ops.onnx_dialect import is_opaque
from graphopt.targets import Executable

_COMPILERS = ("g++", "clang++", "c++")
_LAYOUTS_REMEMBERED = 4096


class EagerEngine:
    """PyTorch eager: the FX graph as a function, without autograd.

    share_weights: run on the graph's own tensors; otherwise each is copied once. channels_last: lay images out so, as
    many convolutions want them.
    """

    name = "eager"
    packages = ("torch",)

    def __init__(self, *, share_weights: bool = False, channels_last: bool = False) -> None:
        self.share_weights = share_weights
        self.channels_last = channels_last

    @property
    def settings(self) -> str:
        """The memory format, where it is not that of the inputs."""
        return "channels_last" if self.channels_last else ""

    def variants(self, graph: Graph) -> Sequence[EagerEngine]:
        """Channels last, for a graph that has convolutions and writes to none of its inputs."""
        if self.channels_last or graph.mutations or not has_convolutions(graph):
            return ()
        return (EagerEngine(share_weights=self.share_weights, channels_last=True),)

    def missing(self) -> str | None:
        """None: eager mode is always there."""
        return None

    def unsupported(self, graph: Graph) -> str | None:
        """Return the first operator or dtype that PyTorch cannot express, or None."""
        return _unsupported(graph)

    def load(self, graph: Graph) -> Executable:
        """Emit the graph. Raises what `emit_fx` raises."""
        if self.channels_last:
            function = emit_function(with_channels_last(graph), share_weights=self.share_weights)
            return _Eager(channels_last_inputs(function))
        return _Eager(emit_function(graph, share_weights=self.share_weights))


class InductorEngine:
    """`torch.compile` by inductor with frozen weights: constants are folded and packed for the kernels.

    Code is generated at the first run (seconds to minutes) for the sizes and strides of its inputs. At other sizes
    it is generated once more, for all of them.

    Random numbers come from inductor's own generator, which `torch.manual_seed` seeds: not those of eager mode.
    """

    name = "inductor"
    packages = ("torch",)
    settings = ""

    def __init__(self, *, share_weights: bool = False) -> None:
        self.share_weights = share_weights

    def variants(self, graph: Graph) -> Sequence[InductorEngine]:
        """None: it chooses layouts by itself."""
        return ()

    def missing(self) -> str | None:
        """Return what is missing to compile the generated C++, or None."""
        named = os.environ.get("CXX")
        if any(shutil.which(compiler) for compiler in ([named] if named else _COMPILERS)):
            return None
        return f"no C++ compiler ({named or ', '.join(_COMPILERS)}) is on the PATH; install g++, or set CXX"

    def unsupported(self, graph: Graph) -> str | None:
        """Return the first operator or dtype that PyTorch cannot express, or None."""
        opaque = next((node for node in walk(graph) if is_opaque(node)), None)
        if opaque is not None:
            return f"{opaque.op.name} runs outside of PyTorch (from {opaque.location})"
        return _unsupported(graph)

    def load(self, graph: Graph) -> Executable:
        """Emit the graph and wrap it. Raises what `emit_fx` raises."""
        module = emit_fx(graph, share_weights=self.share_weights, flat=True, trainable=False, integers=True)
        return _Inductor(module, direct=_is_direct(graph))


class _Eager:
    def __init__(self, function: Callable[..., tuple[Any, ...]]) -> None:
        self._function = function

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        with torch.inference_mode():
            outputs = self._function(*inputs)
        return list(outputs) if torch.is_inference_mode_enabled() else [_usable(output) for output in outputs]


def _usable(output: Any) -> Any:
    """A tensor that autograd takes: inference mode saves up to a fifth of small models' time, but what it makes
    cannot be saved for a backward."""
    return output.clone() if isinstance(output, torch.Tensor) and output.is_inference() else output


class _Inductor:
    """Code for the first layout of inputs, made by inductor directly, and code for all others through dynamo.

    Without dynamo there are no guards to check: a tenth of a millisecond less per call, which is half of a small
    model's time. What needs symbolic sizes, data-dependent ones or control flow, needs dynamo.
    """

    def __init__(self, module: torch.fx.GraphModule, *, direct: bool) -> None:
        self._module = module
        self._direct = direct
        self._first: Any = None
        self._function: Callable[..., Any] | None = None
        self._general: Callable[..., Any] | None = None
        self._seen: set[Any] = set()
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        layout = _layout(inputs)
        with torch.no_grad():
            if self._function is not None and layout == self._first:
                return list(self._function(*inputs))
            if self._general is not None and layout in self._seen:
                return list(self._general(*inputs))
            return self._compile_and_run(inputs, layout)

    def _compile_and_run(self, inputs: Sequence[Any], layout: Any) -> list[Any]:
        """Run inputs of a new layout, for which code may be generated: only then does the setting matter."""
        import torch._inductor
        import torch._inductor.config as settings

        with self._lock, settings.patch(freezing=True):
            if self._direct and self._function is None:
                self._function = torch._inductor.compile(self._module, list(inputs))
                self._first = layout
            if layout == self._first:
                assert self._function is not None
                return list(self._function(*inputs))
            if self._general is None:
                self._general = torch.compile(self._module)
            outputs = list(self._general(*inputs))
        if len(self._seen) >= _LAYOUTS_REMEMBERED:
            self._seen.clear()
        self._seen.add(layout)
        return outputs


def _is_direct(graph: Graph) -> bool:
    """Whether inductor can be called without dynamo: tensors alone, no region, no size that depends on data."""
    return all(isinstance(value.type, TensorType) for value in graph.inputs) and not any(
        node.regions or node.op.has(Trait.DATA_DEPENDENT) for node in graph
    )


def _layout(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """What generated code depends on."""
    return tuple([(x.dtype, x.shape, x.stride()) if isinstance(x, torch.Tensor) else x for x in inputs])


def _unsupported(graph: Graph) -> str | None:
    for value in (*graph.inputs, *graph.constants.values()):
        if isinstance(value.type, TensorType) and value.type.dtype is not DType.STRING:
            try:
                _ = value.type.dtype.storage
            except TypeError as error:
                return f"%{value.name}: {error}"
    for node in walk(graph):
        if node.op.evaluate is None:
            return f"{node.op.name} has no PyTorch implementation (from {node.location})"
    return None
