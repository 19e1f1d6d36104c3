"""Prune and fold on small graphs: what is folded, refused, recomputed, and what memory it takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.analysis.interpreter import Interpreter
from graphopt.backends.fx import emit_fx
from graphopt.backends.onnx import emit_onnx
from graphopt.ir import Graph, verify
from graphopt.ops import parse
from graphopt.passes.pruning.masked import masked_graph
from graphopt.passes.pruning.rewrite import PruneReport, prune_graph
from tests.passes.pruning.oracle import prune, random_selection, settle, worst_error

HALF = np.array([True, False] * 4)


def pruned(text: str, removed: Mapping[str, np.ndarray], **options: Any) -> tuple[Graph, PruneReport]:
    """Prune a graph in text, and hold it to the masked graph in double precision."""
    before = parse(text.replace("f32", "f64"))
    for value in before.constants.values():
        generator = torch.Generator().manual_seed(len(value.name))
        value.constant.tensor.copy_(torch.rand(value.constant.tensor.shape, generator=generator) + 0.25)  # type: ignore[union-attr]
    graph, analysis = before.clone(), ChannelAnalysis(before)
    report = prune_graph(graph, ChannelAnalysis(graph), removed, **options)
    verify(graph)
    masked = masked_graph(before, analysis, report.selection, constants=options.get("constants", "zero"))
    x = torch.randn(tuple(3 if not isinstance(d, int) else d for d in before.inputs[0].shape), dtype=torch.float64)
    for a, b in zip(Interpreter(graph, float64=True).run(x), Interpreter(masked, float64=True).run(x)):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    return graph, report


LINEAR = """
input %x: f32[N, 4]
parameter %w: f32[8, 4]
parameter %b: f32[8]
parameter %v: f32[3, 8]
parameter %c: f32[3]
%y = linear(%x, %w, %b)
"""


def test_zeros_need_no_folding() -> None:
    graph, report = pruned(LINEAR + "%z = gelu(%y)\n%o = linear(%z, %v, %c)\nreturn %o", {"w": HALF})
    assert [node.name for node in graph] == ["aten.linear", "aten.gelu", "aten.linear"]
    assert {n: v.shape for n, v in graph.constants.items()} == {"w": (4, 4), "b": (4,), "v": (3, 4), "c": (3,)}
    assert list(report.kept["v"][1]) == [1, 3, 5, 7] and not report.refused
    assert graph.constants["w"].constant.kept[0].tolist() == [1, 3, 5, 7]  # type: ignore[union-attr]


@pytest.mark.parametrize("steps", ["%z = sigmoid(%y)", "%s = cos(%y)\n%z = add.Scalar(%s) {other=2.0}"])
def test_constants_are_folded(steps: str) -> None:
    graph, report = pruned(LINEAR + steps + "\n%o = linear(%z, %v, %c)\nreturn %o", {"w": HALF})
    assert not report.refused and graph.constants["v"].shape == (3, 4)
    assert any(node.name == "aten.add.Tensor" for node in graph)


def test_a_bias_is_made_where_there_is_none() -> None:
    graph, _ = pruned(LINEAR + "%z = sigmoid(%y)\n%o = linear(%z, %v)\nreturn %o", {"w": HALF})
    assert graph.nodes[-1].operands[2] is not None


CONV = """
input %x: f32[N, 3, 6, 6]
parameter %w: f32[8, 3, 1, 1]
parameter %v: f32[4, 8, 3, 3]
%y = conv2d(%x, %w)
%z = sigmoid(%y)
"""


def test_padding_refuses_constants() -> None:
    graph, report = pruned(CONV + "%o = conv2d(%z, %v) {padding=1}\nreturn %o", {"w": HALF})
    assert graph.constants["w"].shape[0] == 8 and not report.changed
    (refused,) = report.refused
    assert "border" in refused.reason and list(refused.channels) == [0, 2, 4, 6] and "conv2d" in str(refused)


def test_no_padding_folds_constants() -> None:
    graph, report = pruned(CONV + "%o = conv2d(%z, %v)\nreturn %o", {"w": HALF})
    assert graph.constants["w"].shape[0] == 4 and not report.refused


def test_kept_constants_are_exact_inside() -> None:
    """With shifts left as they are the pruned graph equals the masked one, but for the border of padded layers."""
    text = """
    input %x: f32[N, 3, 9, 9]
    parameter %w: f32[8, 3, 1, 1]
    parameter %g: f32[8]
    parameter %h: f32[8]
    buffer %m: f32[8]
    buffer %s: f32[8]
    parameter %v: f32[4, 8, 3, 3]
    %y = conv2d(%x, %w)
    %n = batch_norm(%y, %g, %h, %m, %s) {training=false, momentum=0.1, eps=1e-05, cudnn_enabled=true}
    %z = relu(%n)
    %o = conv2d(%z, %v) {padding=1}
    return %o"""
    before = parse(text)
    for value in before.constants.values():
        value.constant.tensor.uniform_(0.2, 1.0)  # type: ignore[union-attr]
    graph = before.clone()
    report = prune_graph(graph, ChannelAnalysis(graph), {"w": HALF}, constants="keep")
    masked = masked_graph(before, ChannelAnalysis(before), report.selection, constants="keep")
    x = torch.randn(2, 3, 9, 9)
    (got,), (want,) = (Interpreter(g, float64=True).run(x) for g in (graph, masked))
    assert graph.constants["v"].shape == (4, 4, 3, 3)
    inside = (..., slice(1, -1), slice(1, -1))
    assert torch.allclose(got[inside], want[inside], atol=1e-12) and not torch.allclose(got, want, atol=1e-3)


def test_batch_norm_without_weights_leaves_a_constant() -> None:
    text = LINEAR.replace("%y = linear", "buffer %m: f32[8]\nbuffer %s: f32[8]\n%a = linear") + (
        "%y = batch_norm(%a, none, none, %m, %s) {training=false, momentum=0.1, eps=1e-05, cudnn_enabled=true}\n"
        "%o = linear(%y, %v, %c)\nreturn %o"
    )
    graph, report = pruned(text, {"w": HALF})
    assert graph.constants["m"].shape == (4,) and not report.refused


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "group_norm", "instance"])
@pytest.mark.parametrize("affine", [True, False])
def test_norms_keep_their_statistics(norm: str, affine: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1)
            self.norm = {
                "layer_norm": nn.LayerNorm(8, elementwise_affine=affine),
                "rms_norm": nn.RMSNorm(8, eps=1e-3, elementwise_affine=affine),
                "group_norm": nn.GroupNorm(2, 8, affine=affine),
                "instance": nn.InstanceNorm1d(8, affine=affine),
            }[norm]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            last = norm in ("layer_norm", "rms_norm")
            y = self.norm(y.transpose(1, 2)).transpose(1, 2) if last else self.norm(y)
            return self.last(y)

    net, x = settle(Net(), 0), torch.randn(2, 3, 5, dtype=torch.float64)
    result = prune(net, (x,), seed=1)
    assert worst_error(result, (x,)) < 1e-12
    assert result.report.changed or (not affine and norm in ("layer_norm", "group_norm"))


def test_norms_may_be_refused() -> None:
    text = LINEAR + "parameter %g: f32[8]\n%n = rms_norm(%y, (8), %g) {eps=1e-05}\n%o = linear(%n, %v)\nreturn %o"
    text = text.replace("(%y, (8), %g) {eps=1e-05}", "(%y, %g) {normalized_shape=(8), eps=1e-05}").replace(
        "=(8)", "=(8,)"
    )
    _, report = pruned(text, {"w": HALF}, norms="refuse")
    assert not report.changed and "full width" in report.refused[0].reason


def test_reductions_are_corrected() -> None:
    text = LINEAR + (
        "%s = relu(%y)\n%m = mean.dim(%s) {dim=(1,), keepdim=true}\n"
        "%t = sum.dim_IntList(%s) {dim=(1,), keepdim=true}\n%o = add.Tensor(%m, %t)\nreturn %o"
    )
    graph, report = pruned(text, {"w": HALF})
    assert not report.refused and graph.constants["w"].shape == (4, 4)


def test_kept_constants_enter_reductions() -> None:
    text = LINEAR + (
        "%s = relu(%y)\n%m = mean.dim(%s) {dim=(1,), keepdim=true}\n"
        "%t = sum.dim_IntList(%s) {dim=(1,), keepdim=true}\n%o = add.Tensor(%m, %t)\nreturn %o"
    )
    graph, report = pruned(text, {"w": HALF}, constants="keep")
    assert not report.refused and graph.constants["w"].shape == (4, 4)


class Sequence(nn.Module):
    """A recurrent layer between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0])


def test_recurrent_units_go_only_with_their_biases() -> None:
    net, x = settle(Sequence(), 0), torch.randn(2, 3, 4, dtype=torch.float64)
    result = prune(net, (x,))
    assert worst_error(result, (x,)) < 1e-12 and result.report.changed
    kept = prune(net, (x,), constants="keep")
    assert not kept.report.changed and "gates" in kept.report.refused[0].reason


def test_the_cause_of_a_refusal_is_named() -> None:
    """Positions that are kept as they are differ from place to place."""
    text = LINEAR.replace("f32[N, 4]", "f32[N, 5, 4]") + "parameter %p: f32[5, 8]\n%z = add.Tensor(%y, %p)\n"
    text += "%o = linear(%z, %v, %c)\nreturn %o"
    graph, report = pruned(text, {"w": HALF})
    assert report.changed and graph.constants["p"].shape == (5, 4)
    _, report = pruned(text, {"w": HALF}, constants="keep")
    assert not report.changed and "after aten.add" in report.refused[0].reason


class Chain(nn.Module):
    """Layers of one width."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are made and still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._users: dict[int, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {
            t.untyped_storage().data_ptr() for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in old - set(self._users):
                self._watch(tensor)
        return result

    def _watch(self, tensor: torch.Tensor) -> None:
        pointer, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        if self._users.setdefault(pointer, [0, size])[0] == 0:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._users[pointer][0] += 1
        weakref.finalize(tensor, self._gone, pointer)

    def _gone(self, pointer: int) -> None:
        entry = self._users[pointer]
        entry[0] -= 1
        if entry[0] == 0:
            self.now -= entry[1]
            del self._users[pointer]


def test_memory_is_the_pruned_model_and_two_layers() -> None:
    width = 192
    graph = graphopt.trace(Chain(8, width), (torch.randn(2, width),))
    analysis = ChannelAnalysis(graph)
    selection = random_selection(analysis, 0.5, 0)
    with Alive() as alive:
        prune_graph(graph, analysis, selection)
    left = sum(v.constant.tensor.nbytes for v in graph.constants.values() if v.constant is not None)
    assert alive.peak <= left + 2 * 4 * width * width


def test_the_result_trains_and_exports(tmp_path: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=2)
            self.head = nn.Linear(8 * 4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.norm(self.conv(x)))
            return self.head(F.adaptive_avg_pool2d(torch.sigmoid(self.deep(x)), 2).flatten(1))

    net, x = settle(Net(), 0).float(), torch.randn(4, 3, 8, 8)
    result = prune(net, (x,), seed=3, dynamic=({0: torch.export.Dim("N")},))
    with torch.no_grad():
        wanted = result.masked(x[:3])
    session = __import__("onnxruntime").InferenceSession(emit_onnx(result.graph).SerializeToString())
    (exported,) = session.run(None, {session.get_inputs()[0].name: x[:3].numpy()})
    assert np.allclose(exported, wanted.numpy(), atol=1e-5)
    module = emit_fx(result.graph)
    assert torch.allclose(module(x[:3]), wanted, atol=1e-5)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), torch.tensor([0, 1, 2, 3]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    names = {name for name, _ in module.named_parameters()}
    assert names == {name for name, _ in net.named_parameters()}


def test_provenance_and_ties_are_kept() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.up, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.up(self.table(ids)))

    result = prune(settle(Net(), 0), (torch.tensor([[1, 2]]),), seed=2)
    (tied,) = [v for v in result.graph.constants.values() if len(v.constant.names) == 2]  # type: ignore[union-attr]
    assert tied.shape[1] < 6 and set(result.report.kept) >= {"table.weight", "head.weight"}
    assert all(node.location.file and node.location.rules[-1] == "prune-channels" for node in result.graph)


class Multiplied(nn.Module):
    """A constant that is not zero before a product with a stored matrix, or with a view of one."""

    def __init__(self, product: Callable[[Tensor, nn.Parameter, nn.Parameter], Tensor]) -> None:
        super().__init__()
        self.a, self.w, self.b = nn.Linear(6, 16), nn.Parameter(torch.randn(16, 3)), nn.Parameter(torch.randn(3))
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(torch.sigmoid(self.a(x)), self.w, self.b)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w, b: x @ w,
        lambda x, w, b: torch.addmm(b, x, w),
        lambda x, w, b: w.t() @ x.t(),
        lambda x, w, b: F.linear(x, w.t(), b),
        lambda x, w, b: x @ w[:, 0],
    ],
    ids=["matmul", "addmm", "from the left", "linear by a view", "vector"],
)
def test_constants_fold_into_products_with_stored_matrices(product: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model, x = settle(Multiplied(product), 0), torch.randn(4, 6, dtype=torch.float64)
    pruned = prune(model, (x,))
    assert pruned.report.selection["a.weight"].any() and not pruned.report.refused
    assert worst_error(pruned, (x,)) < 1e-12


def test_a_vector_as_a_weight_has_no_bias() -> None:
    torch.manual_seed(0)
    model, x = settle(Multiplied(lambda x, w, b: F.linear(x, w[:, 0])), 0), torch.randn(4, 6, dtype=torch.float64)
    assert "no bias" in prune(model, (x,)).report.refused[0].reason
