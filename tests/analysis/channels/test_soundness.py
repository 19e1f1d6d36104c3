"""Whatever the analysis calls removable is: checked by masking parameters and looking at every value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.calling import CallingConvention
from tests.analysis.channels.families import FAMILIES
from tests.analysis.channels.oracle import check, check_graph, masked, one_channel, trace
from tests.zoo import MODELS, seeded


@pytest.mark.parametrize("name", FAMILIES)
def test_removed_slots_of_every_channel_are_constant_and_kept_ones_come_from_kept_ones(name: str) -> None:
    with seeded(0):
        family = FAMILIES[name]
        module, args = family.make(), family.arguments()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    analysis = ChannelAnalysis(trace(module, *args))
    assert len(analysis.groups) == family.groups, analysis.groups
    checked = 0
    for group in analysis.groups:
        alone = {int(a.channels[0]) for a in group.axes if len(a.channels) == 1}
        for channel in set(range(group.size)) - alone:
            checked += check(module, args, analysis, one_channel(analysis, group.name, channel))
    assert checked


@pytest.mark.parametrize("name", FAMILIES)
def test_several_channels_of_all_groups_at_once(name: str) -> None:
    with seeded(0):
        family = FAMILIES[name]
        module, args = family.make(), family.arguments()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    analysis = ChannelAnalysis(trace(module, *args))
    generator = np.random.default_rng(0)
    for _ in range(3):
        selection = {g.name: generator.random(g.size) < 0.4 for g in analysis.groups}
        for group in analysis.groups:
            for axis in group.axes:
                if selection[group.name][axis.channels].all():
                    selection[group.name][axis.channels[0]] = False
        check(module, args, analysis, selection)


def test_slices_of_consumers_do_not_matter_where_removed_slots_are_zero() -> None:
    with seeded(0):
        family = FAMILIES["Residual"]
        module, args = family.make(), family.arguments()
    module.requires_grad_(False)
    analysis = ChannelAnalysis(trace(module, *args))
    (group,) = analysis.groups
    for member in group.members:
        if member.role.zeroed:
            module.get_parameter(member.name).index_fill_(member.dim, torch.tensor([1]), 0.0)
    before = module(*args)
    for member in group.members:
        if not member.role.zeroed:
            assert member.role.value == "in"
            module.get_parameter(member.name).select(member.dim, 1).normal_()
    b = module.get_parameter("b.weight")
    b[1] = 0.0  # a filter of the same group
    torch.testing.assert_close(module(*args), before)


@pytest.mark.parametrize("name", ["shufflenet", "hf-swin", "hf-llama", "hf-detr"])
def test_real_models(name: str) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs()
    graph = graphopt.trace(entry.build(), args, kwargs)
    analysis = ChannelAnalysis(graph)
    generator = np.random.default_rng(0)
    selection = {g.name: generator.random(g.size) < 0.4 for g in analysis.groups}
    for group in analysis.groups:
        for axis in group.axes:
            selection[group.name][axis.channels[0]] = False
    tensors = {m.name: m.constant.constant.tensor for g in analysis.groups for m in g.members if m.constant.constant}
    with masked(analysis, selection, tensors):
        _, checked = check_graph(analysis, CallingConvention(graph).flatten(args, kwargs, check=False), selection)
    assert checked
