"""Measurements that are kept: read again, and made anew where they are damaged or another's, which is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphopt.analysis import CostModel
from graphopt.analysis.calibration import Sample, blocks, calibrate, calibrated, measure_nodes, micro
from graphopt.analysis.calibration import model as calibration
from graphopt.analysis.calibration.fit import Fit
from graphopt.analysis.calibration.samples import LONG_AGO, measure_in_turn, sample_of
from graphopt.analysis.node_times import NodeSeconds
from graphopt.errors import GraphOptWarning
from graphopt.ops import parse
from graphopt.targets import Device
from graphopt.targets.machine import cpu_device
from graphopt.targets.machine_cache import FOLDER, cached, forget, keep
from graphopt.testing.inputs import sample_inputs

GRAPH = """
input %x: f32[8, 16]
parameter %w: f32[32, 16]
%y = linear(%x, %w)
%z = relu(%y)
return %z
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    forget()
    return tmp_path


def test_measured_once_and_read_again() -> None:
    calls: list[int] = []
    for _ in range(2):
        forget()
        assert cached("rates", lambda: calls.append(1) or {"a": 1.5}) == {"a": 1.5}
    assert calls == [1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-20], "is damaged"),
        (lambda text: "[]", "is damaged"),
        (lambda text: json.dumps({**json.loads(text), "version": 99}), "is of version 99"),
        (lambda text: json.dumps({**json.loads(text), "machine": {}}), "on another machine"),
        (lambda text: json.dumps({**json.loads(text), "values": 3}), "is damaged"),
    ],
)
def test_what_cannot_be_used_is_made_anew_and_said(folder: Path, change, reason: str) -> None:
    cached("rates", lambda: {"a": 1})
    path = folder / "rates.json"
    path.write_text(change(path.read_text()))
    forget()
    with pytest.warns(GraphOptWarning, match=f"{reason}.*measured again"):
        assert cached("rates", lambda: {"a": 2}) == {"a": 2}
    forget()
    assert cached("rates", lambda: {"a": 3}) == {"a": 2}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(GraphOptWarning, match="cannot be kept"):
        keep(tmp_path / "file" / "rates.json", {"a": 1})


def test_the_cpu_is_probed() -> None:
    device = cpu_device()
    assert device.peak["f32"] > 1e8 and device.bandwidth > 1e7 and device.memory and device.local


def test_curves_follow_what_was_measured() -> None:
    samples = [Sample("op", "f", n * 1e3, n * 100.0, 2e-6 + n * 1e-6) for n in (1, 3, 10, 30, 100, 300)]
    fit = Fit(samples)
    for n in (1, 5, 50, 200):
        expected = pytest.approx(2e-6 + n * 1e-6, rel=0.1)
        assert fit.seconds(Sample("op", "f", n * 1e3, n * 100.0, 0)) == expected
        assert fit.seconds(Sample("never seen", "f", n * 1e3, n * 100.0, 0)) == expected
    few = [Sample("slow", "f", s.flops, s.bytes, s.seconds * 7) for s in samples[:2]]
    assert Fit([*samples, *few]).seconds(Sample("slow", "f", 2e4, 2e3, 0)) == pytest.approx(7 * 22e-6, rel=0.2)


def test_near_samples_correct_the_line_and_memory_of_a_kernel_counts() -> None:
    def seconds(n: int, since: int) -> float:
        return (2e-6 + n * 1e-6) * (2.0 if n > 20 else 1.0) * (1.5 if since > 50 else 1.0)

    sizes, gaps = (1, 2, 4, 8, 16, 32, 64, 128), (1, 200)
    samples = [Sample("op", "f", n * 1e3, n * 1e2, seconds(n, g), since=g) for n in sizes for g in gaps for _ in "abc"]
    fit = Fit(samples)
    for n in (3, 100):
        for gap in gaps:
            assert fit.seconds(Sample("op", "f", n * 1e3, n * 1e2, 0, since=gap)) == pytest.approx(
                seconds(n, gap), rel=0.25
            )


def test_what_tells_nodes_apart() -> None:
    graph = parse("""
    input %x: f32[2, 8, 16]
    %a = relu(%x)
    %t = transpose.int(%a) {dim0=1, dim1=2}
    %u = unsqueeze(%t) {dim=0}
    %b = relu(%u)
    %r = reshape(%t) {shape=(2, 128)}
    %c = relu(%r)
    %d = mul.Scalar(%c) {other=2.0}
    return %b, %d""")
    samples = [sample_of(node, CostModel()) for node in graph]
    assert [sample.key for sample in samples] == [
        "aten.relu",
        "aten.transpose.int",
        "aten.unsqueeze/strided",
        "aten.relu/strided",
        "aten.reshape/copy/strided",
        "aten.relu",
        "aten.mul.Scalar",
    ]
    assert [sample.since for sample in samples] == [2, 7, 7, 3, 7, 2, 7]


def test_graphs_that_run_by_turns_find_nothing_in_the_caches() -> None:
    graph = parse(GRAPH.replace("return %z", "%a = relu(%z)\nreturn %a"))
    samples = measure_in_turn([(graph, sample_inputs(graph))] * 1, runs=3)
    assert [sample.since for sample in samples] == [LONG_AGO, LONG_AGO, 1]


def test_blocks_and_small_graphs_run() -> None:
    for text in (*micro.texts()[::9], *blocks.blocks()[::4]):
        graph = parse(text)
        assert len(measure_nodes(graph, sample_inputs(graph), runs=1)) == len(graph.nodes)


def test_nodes_are_measured_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [Sample("aten.relu", "elementwise", n * 100.0, n * 800.0, n * 1e-6) for n in (1, 2, 4, 8, 16)]
    monkeypatch.setattr(calibration, "micro_samples", lambda: small)
    graph = parse(GRAPH)
    linear, relu = graph.nodes
    before = calibrated(CostModel()).seconds(linear)
    measured = calibrate(graph, sample_inputs(graph))
    assert set(measured) == {linear, relu} and all(s.seconds > 0 for s in measured.values())
    assert measured[linear].key == "aten.linear" and measured[linear].flops == 2 * 8 * 16 * 32
    after = calibrated(CostModel())
    assert after.seconds(linear) == pytest.approx(measured[linear].seconds, rel=0.3) and before > 0
    forget()
    assert calibrated(CostModel()).seconds(linear) == after.seconds(linear)
    times = NodeSeconds(CostModel())
    described = Device("cpu", peak={"f32": 1e9}, bandwidth=1e9, launch=1e-6)
    assert times.seconds(linear, described) == pytest.approx(8192e-9 + 1e-6)
    assert times.seconds(linear, Device("cpu", peak={"f32": 1e9}, local=True)) == after.seconds(linear)


def test_measuring_changes_no_graph() -> None:
    graph = parse(GRAPH)
    text = str(graph)
    assert len(measure_nodes(graph, sample_inputs(graph), runs=3)) == 2
    assert str(graph) == text
