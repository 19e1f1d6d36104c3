"""Which groups there are, what is tied to what, and what is refused with which reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.errors import GraphOptError, UnknownNameError
from graphopt.ops import parse
from tests.analysis.channels.families import FAMILIES
from tests.analysis.channels.oracle import one_channel, tied, trace
from tests.zoo import seeded


def analyse(name: str) -> ChannelAnalysis:
    """The analysis of a family's module."""
    with seeded(0):
        family = FAMILIES[name]
        return ChannelAnalysis(trace(family.make(), *family.arguments()))


def sizes(analysis: ChannelAnalysis) -> dict[str, int]:
    """The groups and their numbers of channels."""
    return {group.name: group.size for group in analysis.groups}


def kept(analysis: ChannelAnalysis, group: str, channel: int) -> dict[tuple[str, int], list[int]]:
    """What stays of the constants if one channel goes."""
    removal = analysis.removed(one_channel(analysis, group, channel))
    return {(v.name, d): list(map(int, k)) for (v, d), k in removal.kept.items() if v.constant is not None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ConvNet", {"a.weight": 6, "b.weight": 4}),
        ("Dense", {"a.weight": 4, "b.weight": 3, "c.weight": 5}),
        ("MergedConcat", {"a.weight": 4}),
        ("Depthwise", {"a.weight": 4, "c.weight": 6}),
        ("Grouped", {"a.weight:0": 2, "a.weight:1": 3, "b.weight": 4}),
        ("PixelShuffled", {"a.weight": 3}),
        ("GluHalves", {"a.weight": 4}),
        ("SeparateAttention", {"q.weight:0": 3, "q.weight:1": 4, "v.weight": 4}),
        ("PlainAttention", {"q.weight:0": 3, "q.weight:1": 4, "v.weight": 4}),
        ("ChunkedAttention", {"qkv.weight:0": 3, "qkv.weight:1": 4, "qkv.weight:2": 4}),
        ("UnboundAttention", {"qkv.weight:0": 3, "qkv.weight:1": 4}),
        ("GroupedQueries", {"q.weight:0": 2, "q.weight:1": 4, "v.weight": 4}),
        ("EnabledGroups", {"q.weight:0": 2, "q.weight:1": 4, "v.weight": 4}),
        ("Rotary", {"q.weight:0": 3, "q.weight:1": 2, "v.weight": 4}),
        ("Windows", {"q.weight:0": 2, "q.weight:1": 4, "v.weight": 4}),
        ("TiedEmbedding", {"e.weight": 6}),
        ("Modulated", {"m.weight": 4, "u.weight": 5}),
        ("LongMemory", {"r.weight_ih_l0": 4}),
        ("Positions", {"i.weight": 4}),
    ],
)
def test_groups(name: str, expected: dict[str, int]) -> None:
    assert sorted(sizes(analyse(name)).values()) == sorted(expected.values())
    assert sizes(analyse(name)) == expected


def test_flatten_ties_each_channel_to_all_its_places() -> None:
    found = kept(analyse("ConvNet"), "b.weight", 1)
    places = [i for i in range(36) if i // 9 != 1]
    assert found == {("b.weight", 0): [0, 2, 3], ("b.bias", 0): [0, 2, 3], ("c.weight", 1): places}


def test_a_tensor_beside_itself_loses_the_slot_twice() -> None:
    assert kept(analyse("ConcatSelf"), "a.weight", 1)["b.weight", 1] == [0, 2, 3, 4, 6, 7]


def test_heads_and_columns_of_a_fused_projection() -> None:
    analysis = analyse("ChunkedAttention")
    heads = kept(analysis, "qkv.weight:0", 1)["qkv.weight", 0]
    assert heads == [i for i in range(36) if i % 12 // 4 != 1]
    columns = kept(analysis, "qkv.weight:1", 2)
    assert columns["qkv.weight", 0] == [i for i in range(36) if i >= 24 or i % 4 != 2]
    assert ("o.weight", 1) not in columns
    assert kept(analysis, "qkv.weight:2", 2)["o.weight", 1] == [i for i in range(12) if i % 4 != 2]
    needs = {(need.kind, group.name) for group in analysis.groups for need in group.needs}
    assert needs == {("attention", "qkv.weight:1")}


def test_query_heads_go_with_the_heads_that_they_share() -> None:
    for name in ("GroupedQueries", "EnabledGroups"):
        found = kept(analyse(name), "q.weight:0", 0)
        assert found["q.weight", 0] == list(range(8, 16)) and found["k.weight", 0] == list(range(4, 8))


def test_rotary_positions_couple_the_halves() -> None:
    found = kept(analyse("Rotary"), "q.weight:1", 1)
    assert found["q.weight", 0] == [i for i in range(12) if i % 2 == 0]
    assert found["cos", 1] == [0, 2]
    assert ("cos", 1, "slice") in tied(analyse("Rotary"), "q.weight:1")


def test_a_recurrent_unit_takes_its_gates_in_all_layers_and_directions() -> None:
    found = kept(analyse("LongMemory"), "r.weight_ih_l0", 3)
    gates = [i for i in range(16) if i % 4 != 3]
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        assert found[f"r.weight_ih_{suffix}", 0] == found[f"r.weight_hh_{suffix}", 0] == gates
        assert found[f"r.weight_hh_{suffix}", 1] == [0, 1, 2]
    assert found["r.weight_ih_l1", 1] == found["o.weight", 1] == [0, 1, 2, 4, 5, 6]


def test_a_tied_embedding_keeps_its_rows() -> None:
    analysis = analyse("TiedEmbedding")
    assert ("e.weight", 1, "out") in tied(analysis, "e.weight")
    (frozen,) = analysis.frozen
    assert (frozen.name, frozen.dim, frozen.slots) == ("e.weight", 0, 9)
    assert [need.kind for need in analysis.groups[0].needs] == ["layer_norm"]


def test_summands_that_are_parameters_are_zeroed_and_buffers_are_not() -> None:
    assert {("token", 2, "shift"), ("position", 2, "shift")} <= tied(analyse("Positions"), "i.weight")

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)
            self.register_buffer("table", torch.rand(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.table)

    assert ("table", 0, "slice") in tied(ChannelAnalysis(trace(Table(), torch.randn(2, 6))), "a.weight")


def test_shapes_of_symbolic_size_keep_what_is_beside_them() -> None:
    family = FAMILIES["PlainAttention"]

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.v, self.o = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q, v = (p(x).view(b, n, 3, 4).transpose(1, 2).reshape(b * 3, n, 4) for p in (self.q, self.v))
            p = (q @ q.transpose(1, 2)).softmax(-1)
            x = (p @ v).view(b, 3, n, 4).transpose(1, 2).reshape(b * n, 12)
            return self.o(x)

    batch, length = torch.export.Dim("b", min=2, max=64), torch.export.Dim("n", min=2, max=64)
    graph = graphopt.trace(Heads().eval(), family.arguments(), dynamic_shapes={"x": {0: batch, 1: length}})
    analysis = ChannelAnalysis(graph)
    assert sizes(analysis) == {"q.weight:0": 3, "q.weight:1": 4, "v.weight": 4}
    removal = analysis.removed({"q.weight:0": [True, False, False], "v.weight": [False, False, True, False]})
    shapes = {tuple(map(str, removal.shape(value))) for value in removal.shapes}
    assert {("2*b", "n", "4"), ("2*b", "n", "3"), ("b*n", "6")} <= shapes, shapes


def test_sizes_that_do_not_nest_leave_coarser_channels() -> None:
    class Nests(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(
                x.view(2, 2, 6).transpose(1, 2).reshape(2, 12) + x.view(2, 3, 4).transpose(1, 2).reshape(2, 12)
            )

    analysis = ChannelAnalysis(trace(Nests(), torch.randn(2, 6)))
    assert all(group.size < 12 for group in analysis.groups)


def test_an_operator_without_a_rule_is_a_barrier() -> None:
    with torch.library._scoped_library("graphopt_barrier", "DEF") as library:
        library.define("opaque(Tensor x) -> Tensor")
        library.impl("opaque", lambda x: x.clone(), "CompositeExplicitAutograd")
        torch.library.register_fake("graphopt_barrier::opaque", lambda x: torch.empty_like(x), lib=library)

        class Barrier(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.c(torch.ops.graphopt_barrier.opaque(self.a(x)).matmul(self.b.weight.t()).relu())

        analysis = ChannelAnalysis(trace(Barrier(), torch.randn(2, 6)))
    assert sizes(analysis) == {"b.weight": 5}
    reasons = {f.name: f.reason for f in analysis.frozen}
    assert reasons == {"a.weight": "graphopt_barrier.opaque has no rule", "c.weight": "output 0, which the caller sees"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("%z = aten.softmax.int(%y) {dim=1}", "softmax over it"),
        ("%z = aten.cumsum(%y) {dim=1}", "cumsum along it"),
        ("%m = aten.amax(%y) {dim=(1), keepdim=true}\n%z = aten.sub.Tensor(%y, %m)", "amax over it"),
        ("%z = aten.roll(%y) {shifts=(1), dims=(1)}", "roll along it"),
        ("%m = aten.mean.dim(%y) {dim=(1), keepdim=true}\n%z = aten.sub.Tensor(%y, %m)", "not be constant"),
        ("%z = aten.add.Tensor(%y, %noise)", "not be constant"),
    ],
)
def test_refusals(line: str, reason: str) -> None:
    graph = parse(f"""input %x: f32[3, 16]
        input %noise: f32[3, 1]
        parameter %w: f32[8, 16]
        parameter %v: f32[4, 8]
        %y = aten.linear(%x, %w)
        {line}
        %o = aten.linear(%z, %v)
        return %o""")
    analysis = ChannelAnalysis(graph)
    assert not analysis.groups
    frozen = next(f for f in analysis.frozen if f.name == "w")
    assert reason in frozen.reason and frozen.node is not None
    assert frozen.reason in analysis.explain("w")


def test_norms_that_are_buffers_are_no_zeros() -> None:
    """Frozen statistics leave a constant in removed slots; a layer norm what varies, which no next layer may see."""
    text = """input %x: f32[3, 16]
        parameter %w: f32[8, 16]
        buffer %s: f32[8]
        parameter %v: f32[4, 8]
        %y = aten.linear(%x, %w)
        LINE
        %o = aten.linear(%z, %v)
        return %o"""
    batch = "%z = aten.batch_norm(%y, %s, %s, %s, %s) {training=false, momentum=0.1, eps=1e-05, cudnn_enabled=true}"
    analysis = ChannelAnalysis(parse(text.replace("LINE", batch)))
    assert sizes(analysis) == {"w": 8}
    (value,) = (node.result for node in analysis.graph if node.op.base == "aten.batch_norm")
    assert [f.state.name for f in analysis.tracker.values[value][1]] == ["CONSTANT"]
    layer = "%z = aten.layer_norm(%y, %s, %s) {normalized_shape=(8)}"
    (group,) = ChannelAnalysis(parse(text.replace("LINE", layer))).groups
    assert {(m.name, m.dim): m.role.value for m in group.members} == {
        ("w", 0): "out", ("s", 0): "slice", ("v", 1): "normalized"
    }  # fmt: skip


def test_explain_names_members_ties_and_nodes() -> None:
    text = analyse("Residual").explain("a.weight")
    assert "4 channels" in text and "in         c.weight dim 1: 4 of 4 slots" in text
    assert "tied by aten.add, aten.add.Tensor" in text
    with pytest.raises(UnknownNameError, match=r"Did you mean 'a\.weight'"):
        analyse("Residual").explain("a.wieght")


def test_bad_selections() -> None:
    analysis = analyse("Residual")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'a\.weight'"):
        analysis.removed({"a.wight": [True]})
    with pytest.raises(GraphOptError, match="4 channels"):
        analysis.removed({"a.weight": [True]})
    with pytest.raises(GraphOptError, match="removes all"):
        analysis.removed({"a.weight": np.ones(4, bool)})


def test_fingerprints_are_equal_for_the_same_structure_at_any_size() -> None:
    def blocks(width: int) -> list[str]:
        layers = [nn.Conv2d(3, 4, 1)]
        for _ in range(3):
            layers += [nn.Conv2d(4, width, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 1), nn.ReLU()]
        module = nn.Sequential(*layers, nn.Conv2d(4, 2, 1))
        analysis = ChannelAnalysis(trace(module, torch.randn(1, 3, 4, 4)))
        return [group.fingerprint for group in analysis.groups if group.size == width]

    assert len(set(blocks(6) + blocks(8))) == 1
