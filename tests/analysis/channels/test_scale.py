"""Real models analyse, deterministically, and the work is linear in the depth of a network."""

from __future__ import annotations

import pytest

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.ir import Graph, clone_graph
from graphopt.ops import parse
from tests.zoo import MODELS

SUBSET = """resnet8 shufflenet norms decoder vit-tiny gru recommender hf-regnet hf-swin hf-llama hf-phi3 hf-t5
hf-whisper hf-mamba""".split()  # noqa: SIM905


def describe(graph: Graph) -> list[object]:
    """All that the analysis says, without identities."""
    analysis = ChannelAnalysis(graph)
    groups = [
        (g.name, g.size, g.fingerprint, [(m.name, m.dim, m.role, m.channels.tolist(), m.factor) for m in g.members])
        for g in analysis.groups
    ]
    return [groups, [(f.name, f.dim, f.slots, f.reason) for f in analysis.frozen]]


@pytest.mark.parametrize("name", SUBSET)
def test_real_models(name: str) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs()
    shapes = entry.dynamic_shapes() if entry.dynamic else None
    graph = graphopt.trace(entry.build(), args, kwargs, dynamic_shapes=shapes)
    found = describe(graph)
    assert found[0] and found == describe(clone_graph(graph))
    analysis = ChannelAnalysis(graph)
    names = [group.name for group in analysis.groups]
    assert len(set(names)) == len(names)
    for group in analysis.groups:
        assert any(member.role.zeroed for member in group.members)
        keep = {int(axis.channels[0]) for axis in group.axes}
        removal = analysis.removed({group.name: [channel not in keep for channel in range(group.size)]})
        assert removal.shapes


def chain(layers: int) -> Graph:
    """Convolutions with batch norms on a residual stream that joins every other layer."""
    lines = ["input %x0: f32[1, 4, 8, 8]"]
    for i in range(layers):
        lines += [f"parameter %w{i}: f32[4, 4, 3, 3]", f"parameter %g{i}: f32[4]", f"parameter %b{i}: f32[4]"]
        lines += [f"buffer %m{i}: f32[4]", f"buffer %v{i}: f32[4]"]
    for i in range(layers):
        lines += [
            f"%c{i} = aten.conv2d(%x{i}, %w{i}) {{padding=(1, 1)}}",
            f"%n{i} = aten.batch_norm(%c{i}, %g{i}, %b{i}, %m{i}, %v{i}) "
            '{training="follow", momentum=0.1, eps=1e-05, cudnn_enabled=true}',
            f"%r{i} = aten.relu(%n{i})",
        ]
        lines.append(f"%x{i + 1} = aten.add.Tensor(%r{i}, %r{i - 1})" if i % 2 else f"%x{i + 1} = aten.alias(%r{i})")
    return parse("\n".join([*lines, f"return %x{layers}"]))


def operations(layers: int) -> int:
    """How many elements of arrays the analysis touches."""
    analysis = ChannelAnalysis(chain(layers))
    assert analysis.groups
    return analysis.tracker.atoms.operations


def test_work_is_linear_in_the_depth_of_a_chain() -> None:
    small, large = operations(100), operations(1000)
    assert large < 12 * small


def test_a_dense_network_costs_its_slots() -> None:
    def dense(layers: int) -> tuple[int, int]:
        widths = [4 * (i + 1) for i in range(layers)]
        lines = ["input %x: f32[1, 4, 2, 2]", "parameter %stem: f32[4, 4, 1, 1]"]
        lines += [f"parameter %w{i}: f32[4, {w}, 1, 1]" for i, w in enumerate(widths)]
        lines.append("%y0 = aten.conv2d(%x, %stem)")
        for i in range(layers):
            lines.append(f"%c{i} = aten.conv2d(%y{i}, %w{i})")
            lines.append(f"%y{i + 1} = aten.cat(%y{i}, %c{i}) {{dim=1}}")
        lines += [
            f"parameter %head: f32[2, {4 * layers + 4}, 1, 1]",
            f"%o = aten.conv2d(%y{layers}, %head)",
            "return %o",
        ]
        analysis = ChannelAnalysis(parse("\n".join(lines)))
        assert len(analysis.groups) == layers + 1
        return analysis.tracker.atoms.operations, sum(widths)

    (few, small), (many, large) = dense(10), dense(40)
    assert many / few < 2 * large / small
