"""`CompiledModel`: an `nn.Module` that drops in for the original."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.errors import GraphOptError
from graphopt.ir import ConstantKind, Graph, Value
from graphopt.lazy import CaptureCache
from graphopt.options import CompileOptions
from graphopt.program import Program, program_facts
from graphopt.report import CompileReport
from graphopt.serialization import save_graph
from graphopt.state import State, adopt_tables
from graphopt.state_map import KeptByName, StateMap

if TYPE_CHECKING:
    import onnx

    from graphopt.debugging import Explanation
    from graphopt.passmanager.pipeline import PassLike
    from graphopt.serving import Server


class CompiledModel(nn.Module):
    """A compiled model. Call it as you called the original: same arguments, same results.

    graph: the optimized graph. module: the FX module of that graph. report: what the compiler did and measured.

    On `target="fx"` the parameters are this module's own, under their original names: it trains. On an engine
    target the weights live in the engine, so `train()`, `half()` and `load_state_dict` raise and name the remedy.

    A model compiled without example inputs is captured at its first call, and anew for each new kind of arguments;
    `graph`, `module`, `report`, `save` and `to_onnx` are then those of the latest call's capture.
    """

    def __init__(
        self,
        options: CompileOptions,
        program: Program | None,
        captures: CaptureCache | None = None,
        state: State | None = None,
    ) -> None:
        super().__init__()
        self.training = False
        self._options = options
        self._captures = captures
        self._program = program
        self._converted = False
        self._state_names = {} if state is None else dict(state.names or {})
        source = program.module if state is None and program is not None else state
        if source is not None:
            adopt_tables(self, source)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Raises:
            InputError: arguments that don't fit what was captured.
            CaptureError: without example inputs: the model cannot be captured, or was for too many kinds of arguments.
        """
        if torch.compiler.is_compiling() and _is_traced(args, kwargs):
            return self.module(*args, **kwargs)
        if self._captures is None:
            return self._require("a call").call(args, kwargs, check=not self._converted)
        program = self._program = self._captures(args, kwargs, self.training)
        if program.module is not None and program.module.training != self.training:
            program.module.train(self.training)
        return program.call(args, kwargs)

    def extra_repr(self) -> str:
        """The target, and what runs there."""
        parts = [f"target={self._options.target.name!r}"]
        if self._program is not None:
            parts += [f"engine={self.engine!r}", f"nodes={len(self._program.graph)}"]
        return ", ".join(parts)

    # What was compiled

    @property
    def is_captured(self) -> bool:
        """True unless the model is captured at its first call, which is still to come."""
        return self._program is not None

    @property
    def graph(self) -> Graph:
        """The optimized graph; of an FX module, with the weights as they are now."""
        program = self._require("graph")
        return program.graph if program.module is None else program.current_graph()

    @property
    def module(self) -> torch.fx.GraphModule:
        """The FX module of the optimized graph. On an engine target it is emitted at the first use."""
        return self._require("module").fx_module()

    @property
    def report(self) -> CompileReport:
        """What each pass and each engine did, with numbers."""
        return self._require("report").report

    @property
    def engine(self) -> str:
        """The name of the engine that runs the model (`"fx"` for an FX module)."""
        return self._require("engine").engine_name

    def explain(self, pass_: PassLike, node: str | None = None) -> Explanation:
        """Say what a pass did here, which nodes it left alone and why, and where nodes came from.

        pass_, node: see `graphopt.explain`. Compiled with `instruments=[graphopt.passmanager.Provenance()]`, the whole
        pipeline is explained; else what the pass makes of the optimized graph.

        Raises:
            UnknownNameError: no such pass or node.
        """
        from graphopt.debugging import explain

        target, trainable = self._options.target.name, self._options.trainable
        return explain(self, pass_, node, target=target, trainable=trainable)

    def measure(
        self, model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Measure this model beside its original, and put latencies, and the time and error of each node, into
        `report`. options: see `graphopt.html_report.measured.measure`."""
        from graphopt.html_report.measured import measure

        measure(self, model, args, kwargs, **options)

    def serve(self, **options: Any) -> Server:
        """Serve the model to many callers at once, batching what they ask for: see `graphopt.serving.Server`.

        max_batch: rows of a batch, at most. max_delay: how long a request may wait for others, in seconds, where that
            is expected to pay. latency: the objective for a request, in seconds from submission to answer: batches stay
            so small that the oldest in them is expected to meet it. max_queue: how many requests may wait.
        pad: what fills up requests that are shorter than others in the batch: a number, or one for each input by name
            (`{"input_ids": 0, "attention_mask": 0}`); without it, only requests of equal lengths run together. buckets:
            by the name of a dynamic dim, the lengths that batches are filled up to, for engines that prefer few.
        check: hold the first joined and the first filled-up batch to the graph in float64; if requests get other
            results than alone, that is not done again, and a warning says so.

        Raises:
            GraphOptError: no dynamic dim counts the rows of all inputs and outputs, the model keeps state, or an
                option that makes no sense.

        >>> import graphopt
        >>> model = graphopt.compile(nn.Linear(4, 2), (torch.ones(2, 4),), target="fx", dynamic_shapes="batch")
        >>> with model.serve(max_batch=16) as server:
        ...     answers = [server.submit(torch.ones(1, 4)) for _ in range(3)]
        ...     print([list(answer.result().shape) for answer in answers])
        [[1, 2], [1, 2], [1, 2]]
        """
        from graphopt.serving import Server

        return Server(self._require("serve()"), **options)

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the saved form (see `graphopt.load`). The file is replaced only once all is written.

        Raises:
            SerializationError: the file cannot be written, or the calling convention has no JSON form.
        """
        self._save(path)

    def to_onnx(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        opset: int | None = None,
        external_data: bool | None = None,
        rules: str | None = None,
    ) -> onnx.ModelProto:
        """Emit the optimized graph as an ONNX model, and write it to `path` if one is given.

        opset: by default the one that the model was compiled with, that of the ONNX file which it was read from, or
            20. external_data: weights in a file beside the model, and in the result only where they are; by default
            above 1.5 GiB. rules: hold quantization to what an engine documents, "tensorrt", before the file is
            written; by default to those of the target, if there are some.

        Raises:
            EmissionError: an operator that ONNX cannot express, or rules that the quantization breaks.
            UnknownNameError: no such rules.
            SerializationError: the file cannot be written.
        """
        from graphopt.backends.onnx.emission import Emission
        from graphopt.backends.onnx.save import save_emission
        from graphopt.backends.onnx.tensorrt import RULES, hold_to

        program = self._require("to_onnx()")
        emission = Emission.of(program.current_graph(), self._options.opset if opset is None else opset)
        notes = program.report.passes.notes
        if emission.note and emission.note not in notes:
            notes.append(emission.note)
        if rules is None:
            rules = self._options.target.name if self._options.target.name in RULES else ""
        if rules:
            hold_to(rules, emission.to_model())
        if path is None:
            return emission.to_model()
        # Whose tensors train may have written to the pages that they are mapped from; an engine's are as in the file.
        mapped = program.folder is not None and not self._trains
        return save_emission(emission, path, external_data, program.release if mapped else None)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        rebuild, arguments = self.__reduce__()
        return rebuild(*arguments)

    def __reduce__(self) -> tuple[Callable[..., CompiledModel], tuple[Any, ...]]:
        buffer = io.BytesIO()
        self._save(buffer)
        return _rebuild, (buffer.getvalue(), self.training)

    def _save(self, destination: Any) -> None:
        program = self._require("save(), copy or pickle")
        save_graph(
            program.current_graph(),
            destination,
            target=self._options.target.name,
            trainable=self._options.trainable,
            opset=self._options.opset,
            **program_facts(program),
        )

    # As a module

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The module's tensors under their original names; on an engine target as they were compiled."""
        prefix = kwargs.get("prefix", "")
        if self._trains:
            found = super().state_dict(*args, **kwargs)
            for path, name in self._renamed().items():
                if prefix + path in found:
                    found[prefix + name] = found.pop(prefix + path)
            return found
        found = kwargs.get("destination")
        found = {} if found is None else found
        for value in self._require("state_dict()").current_graph().constants.values():
            constant = value.constant
            assert constant is not None
            if constant.kind is not ConstantKind.CONSTANT and constant.persistent:
                found.update((prefix + name, constant.tensor.detach()) for name in constant.names)
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights; only an FX module can.

        Raises:
            GraphOptError: on an engine target.
        """
        self._refuse_on_engine("load_state_dict()")
        paths = {name: path for path, name in self._renamed().items()}
        return super().load_state_dict({paths.get(n, n): t for n, t in state_dict.items()}, *args, **kwargs)

    @property
    def state_map(self) -> StateMap:
        """Which slices of the original model's tensors this one keeps, after pruning."""
        return StateMap.of(self._require("state_map").graph)

    def kept_slices(self) -> KeptByName:
        """What `state_map` says, by the names that the FX module has for its tensors; whole tensors are left out."""
        paths, kept = self.module.meta["names"], self.state_map.kept
        return {paths.get(name, name): slices for name, slices in kept.items() if slices}

    def slice_state_dict(self, old: Mapping[str, torch.Tensor], *, strict: bool = True) -> dict[str, torch.Tensor]:
        """Cut a checkpoint of the original model down to this one, for `load_state_dict`.

        Masks stay as they are here, and so do constants that pruning folded into biases: they are made of the weights
        that were pruned. For other weights, prune again, with `channels=` those that this model's report names.

        strict: refuse if a parameter of this model is not in the checkpoint; otherwise it stays as it is.

        Raises:
            GraphOptError: the checkpoint is of another model, or lacks a parameter.

        >>> import graphopt
        >>> model = nn.Linear(4, 4)
        >>> same = graphopt.compile(model, (torch.ones(1, 4),), target="fx")
        >>> sorted(same.slice_state_dict(model.state_dict()))
        ['bias', 'weight']
        """
        sliced, own = self.state_map.slice_state_dict(old), self.state_dict()
        constants = self._require("slice_state_dict()").graph.constants.values()
        parameters = {n for v in constants if v.constant is not None and _is_parameter(v) for n in v.constant.names}
        missing = sorted(name for name in own if name not in sliced and name in parameters)
        if missing and strict:
            raise GraphOptError(
                f"the checkpoint has no {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}: it is of "
                "another model, or pruning made these of several tensors; strict=False leaves them as they are"
            )
        return {name: sliced.get(name, tensor) for name, tensor in own.items()}

    def finalize(self) -> CompiledModel:
        """Fold masks into the weights, for good: what was pruned by masks is now plain zeros. In place; returns itself.

        Parameters become new objects, so an optimizer must be made anew. On an engine target there is nothing to do.

        Raises:
            GraphOptError: the model was compiled without args.
        """
        from graphopt.backends.fx import emit_fx
        from graphopt.passes.fold_masks import FoldMasks

        program = self._require("finalize()")
        if self._captures is not None:
            raise GraphOptError("a model that is captured at its first call has no masks of its own; compile with args")
        if program.module is not None:
            graph = FoldMasks()(program.current_graph())
            module = emit_fx(graph, share_weights=True)
            self._program = Program(graph, program.report, program.engine_name, module=module)
            adopt_tables(self, module)
            self.train(self.training)
        return self

    def _renamed(self) -> dict[str, str]:
        """The original name of each tensor whose name an FX module has for something else, by its path there."""
        names = self._state_names
        if self._captures is None and self._program is not None and self._program.module is not None:
            names = self._program.module.meta["names"]
        return {path: name for name, path in names.items() if path != name}

    def train(self, mode: bool = True) -> CompiledModel:
        """Set training mode; only an FX module trains.

        Raises:
            GraphOptError: on an engine target.
        """
        if mode:
            self._refuse_on_engine("train()")
        super().train(mode)
        if self._captures is None and self._program is not None and self._program.module is not None:
            self._program.module.training = mode
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> CompiledModel:
        """Move or convert, as `to()`, `half()` and `cuda()` do. What changes nothing is always fine."""
        if not self._converts(fn):
            return self
        self._refuse_on_engine("moving or converting the model")
        if self._captures is not None:
            raise GraphOptError(
                "a model that is captured at its first call cannot be moved or converted; convert the original and "
                "compile that, or give args to graphopt.compile"
            )
        super()._apply(fn, recurse)
        self._converted = True
        return self

    def _converts(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> bool:
        tensors = self._tensors()
        kinds = dict.fromkeys((t.dtype, t.device) for t in tensors) or {(torch.float32, torch.device("cpu")): None}
        probes = [torch.empty(0, dtype=dtype, device=device) for dtype, device in kinds]
        return any((made.dtype, made.device) != (p.dtype, p.device) for p, made in zip(probes, map(fn, probes)))

    def _tensors(self) -> Iterable[torch.Tensor]:
        if self._trains or self._program is None:
            return [*self.parameters(), *self.buffers()]
        return [v.constant.tensor for v in self._program.graph.constants.values() if v.constant is not None]

    @property
    def _trains(self) -> bool:
        return not self._options.target.engines

    def _refuse_on_engine(self, what: str) -> None:
        if not self._trains:
            raise GraphOptError(
                f"{what} is not possible on target {self._options.target.name!r}, whose engine holds the weights; "
                "compile with target='fx', change that, and compile the result for the engine"
            )

    def _require(self, what: str) -> Program:
        if self._program is None:
            raise GraphOptError(f"{what} needs a captured model: call it once, or give args to graphopt.compile")
        return self._program


def _is_parameter(value: Value) -> bool:
    return value.constant is not None and value.constant.kind is ConstantKind.PARAMETER


def _is_traced(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """True inside `torch.compile` and `torch.export`. Export's flag holds for all threads; other threads' calls are
    to run as ever."""
    if torch.compiler.is_dynamo_compiling():
        return True
    from torch._subclasses.fake_tensor import FakeTensor

    return any(isinstance(leaf, FakeTensor) for leaf in pytree.tree_leaves((args, kwargs)))


def _rebuild(data: bytes, training: bool) -> CompiledModel:
    from graphopt.api import load

    model = load(io.BytesIO(data))
    return model.train() if training else model
