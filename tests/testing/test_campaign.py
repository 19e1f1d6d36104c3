"""The long mode: collects and shrinks failures; run at length on demand."""

from __future__ import annotations

import pytest

from graphopt.ir import Graph, verify
from graphopt.ops import parse
from graphopt.testing import Campaign, Unsupported, random_graph
from graphopt.testing.suite import backend_properties, graph_properties, pass_properties, pipeline_properties
from tests.testing.modes import count

pytestmark = pytest.mark.unchecked_passes


def no_relu(graph: Graph) -> None:
    for node in graph:
        if node.op.name == "aten.relu":
            raise ValueError(f"%{node.result.name or 7} is a relu")


def no_sigmoid(graph: Graph) -> None:
    if any(node.op.name == "aten.sigmoid" for node in graph):
        raise Unsupported("no kernel for sigmoid (from somewhere)")


def test_failures_are_counted_by_property_and_shrunk_once_a_kind() -> None:
    campaign = Campaign({"verify": verify, "no relu": no_relu}, options={"operators": ["relu", "neg", "sigmoid"]})
    campaign.run(30)
    assert campaign.checks == {"verify": 30, "no relu": 30}
    assert len(campaign.failures) > 3
    first, *others = campaign.failures
    assert first.property == "no relu" and first.kind == "ValueError: # is a relu"
    assert [node.op.name for node in parse(first.graph)] == ["aten.relu"]
    assert not any(f.graph for f in others)
    with pytest.raises(ValueError, match="is a relu"):
        no_relu(random_graph(first.seed, operators=["relu", "neg", "sigmoid"]))


def test_what_an_engine_lacks_is_no_failure() -> None:
    campaign = Campaign({"no sigmoid": no_sigmoid}, options={"operators": ["relu", "sigmoid"]})
    campaign.run(20)
    lacking = campaign.statistics.unsupported["no kernel for sigmoid"]
    assert lacking > 3
    assert campaign.checks["no sigmoid"] == 20 - lacking
    assert not campaign.failures
    assert "no kernel for sigmoid" in str(campaign.statistics)


def test_properties_take_turns() -> None:
    campaign = Campaign({}, {"a": verify, "b": verify}, {"max_nodes": 2})
    campaign.run(6)
    assert campaign.checks == {"a": 3, "b": 3}


@pytest.mark.slow
def test_thousands_of_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    always = {**graph_properties(), **pipeline_properties(), **backend_properties()}
    campaign = Campaign(always, pass_properties(), {"max_nodes": 8})
    campaign.run(count(5000))
    with capsys.disabled():
        print(campaign.statistics)
    assert not campaign.failures
    assert campaign.statistics.discarded <= campaign.statistics.graphs // 100
