"""Targets as data: files, names, and one clear error for each field that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import graphopt
from graphopt.errors import TargetError, UnknownNameError
from graphopt.targets import Capability, Device, Link, Target, get_target, load_target, require_devices, target_names
from graphopt.targets.machine_cache import FOLDER, forget

BOX = """
schema = 1
name = "box"
description = "a CPU and a card"
engines = ["eager"]

[[devices]]
name = "cpu"
memory = "8 GiB"
peak = { f32 = 2e11, i8 = 8e11 }
bandwidth = 2.5e10

[[devices]]
name = "card:0"
kind = "npu"
memory = 1000000
peak = { f16 = 4e12 }
bandwidth = 1e11
launch = 1e-5
multiples = { f16 = 16 }
layouts = ["channels_last"]
power = 5
energy = 2.5

[[links]]
from = "cpu"
to = "card:0"
bandwidth = 1.2e10
latency = 1e-5

[[capabilities]]
operator = "aten.conv2d"
devices = ["npu"]
dtypes = ["f16", "i8"]
granularity = "channel"
symmetric = true
fusion = ["aten.relu"]
scales = "integer"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    forget()


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "box.toml"
    path.write_text(text)
    return str(path)


def test_a_file_holds_all_there_is(tmp_path: Path) -> None:
    target = get_target(written(tmp_path, BOX))
    assert target == load_target(tmp_path / "box.toml")
    cpu, card = target.devices
    assert (cpu.memory, cpu.rate("i8"), cpu.kind) == (8 << 30, 8e11, "cpu")
    assert (card.busy, card.rate("f32"), card.layouts, card.multiples["f16"]) == (0.5, 4e12, ("channels_last",), 16)
    assert target.link("card:0", "cpu") == Link("cpu", "card:0", 1.2e10, 1e-5)
    assert target.can_run(card, "aten.conv2d", "f16") and not target.can_run(card, "aten.conv2d", "f32")
    assert target.can_run(cpu, "aten.gelu", "f32") and not target.can_run(card, "onnx.Foo")
    assert target.capabilities[0] == Capability(
        "aten.conv2d", ("npu",), ("f16", "i8"), (), "channel", True, ("aten.relu",), "integer"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "", "there is no schema; this version of graphopt reads targets with schema = 1"),
        ("schema = 1", "schema = 2", "schema is 2"),
        ('name = "box"', 'name = ""', "name must be a word"),
        ('name = "box"\n', "", "field 'name' is missing"),
        ("engines = [", "engine = [", "has no field 'engine'; did you mean 'engines'"),
        ('engines = ["eager"]', 'engines = "eager"', "engines must be a list of names, got 'eager'"),
        ('"8 GiB"', '"8 GiBi"', r"devices\[0\]: memory must be bytes, or a number and one of"),
        ('"8 GiB"', "-1", "device 'cpu': memory must be a positive whole number of bytes, got -1"),
        ("f32 = 2e11", "f31 = 2e11", "the dtype of peak must be one of"),
        ("f32 = 2e11", "f32 = -1", r"peak\[f32\] must be a positive number"),
        ("peak = { f16 = 4e12 }", "", "peak must be a positive number of FLOP/s for at least one dtype"),
        ("bandwidth = 1e11", "bandwidth = 0", "device 'card:0': bandwidth must be a positive number of bytes/s, got 0"),
        ("bandwidth = 1e11", "bandwidth = nan", "bandwidth must be a positive number"),
        ("launch = 1e-5", "launch = -1", "launch must be seconds, 0 or more"),
        ("f16 = 16", "f16 = 1.5", r"multiples\[f16\] must be a positive whole number"),
        ('"channels_last"', '"blocked"', "layouts must be one of 'contiguous', 'channels_last', got 'blocked'"),
        ('kind = "npu"', 'kind = "abacus"', "kind must be one of 'cpu', 'cuda', 'tpu', 'fpga', 'npu', got 'abacus'"),
        ("power = 5\n", "", "device 'card:0': power must be given, since energy is"),
        ('name = "card:0"', 'name = "card 0"', "name must be a word, or a word and a number"),
        ('name = "card:0"', 'name = "cpu"', "there are two devices of the name 'cpu'"),
        ('to = "card:0"', 'to = "card:1"', "a link names 'card:1', which is no device; there are 'cpu', 'card:0'"),
        ('to = "card:0"', 'to = "cpu"', "to must be another device than from"),
        ("latency = 1e-5", 'latency = "short"', "latency must be seconds, 0 or more, got 'short'"),
        ('devices = ["npu"]', 'devices = ["gpu"]', "names 'gpu', which is no device or kind of one"),
        ('"channel"', '"row"', "granularity must be one of"),
        ('scales = "integer"', 'scales = "none"', "scales must be one of"),
        ("[[links]]", "[links]", r"links must be tables, as \[\[links\]\]"),
        ("[[links]]", "[[links", "this is no TOML"),
    ],
)
def test_each_wrong_field_is_one_clear_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert BOX.count(old) >= 1
    with pytest.raises(TargetError, match=message) as raised:
        load_target(written(tmp_path, BOX.replace(old, new, 1)))
    assert str(raised.value).startswith(str(tmp_path / "box.toml"))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"cannot read the target .*none.toml: No such file"):
        get_target(tmp_path / "none.toml")
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(TargetError, match="is no text"):
        load_target(tmp_path / "odd.toml")


def test_objects_are_held_to_the_same(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="devices must be a tuple of Device objects"):
        Target("t", devices=[Device("cpu", peak={"f32": 1.0})])  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="width_multiple must be a positive whole number, got 0"):
        Target("t", width_multiple=0)
    with pytest.raises(TargetError, match="no link from 'a' to 'b'"):
        Target("t", devices=(Device("a", peak={"f32": 1.0}), Device("b", peak={"f32": 1.0}))).link("a", "b")


def test_names_of_devices() -> None:
    both = get_target("cpu+cuda")
    assert [d.kind for d in both.devices] == ["cpu", "cuda"]
    assert both.link("cuda:0", "cpu").bandwidth > 1e9 and both.devices[0].local
    assert get_target("cuda:3").devices[0].name == "cuda:3"
    assert get_target("auto").name == ("cuda" if torch.cuda.is_available() else "cpu")
    assert {"auto", "cuda", "cpu+cuda", "cpu", "tpu", "fpga", "edge-cpu"} <= set(target_names())
    for name in ("cuda+tpu", "cuda:x", "gpu"):
        with pytest.raises(UnknownNameError, match="Unknown target"):
            get_target(name)
    for name in ("tpu", "fpga", "edge-cpu"):
        target = get_target(name)
        assert all(device.memory and device.peak for device in target.devices)
        assert any(device.busy < float("inf") for device in target.devices)


def test_a_missing_device_is_one_error_with_the_ways_out() -> None:
    model, x = torch.nn.Linear(4, 4).eval(), torch.randn(2, 4)
    if not torch.cuda.is_available():
        with pytest.raises(TargetError, match=r"needs cuda:0, and .*CUDA.*target='cpu', or simulate=True"):
            graphopt.compile(model, (x,), target="cuda")
    with pytest.raises(TargetError, match="graphopt plans for a tpu and runs on none"):
        require_devices(get_target("tpu"))
    made = graphopt.compile(model, (x,), target="tpu", simulate=True)
    torch.testing.assert_close(made(x), model(x))


def test_a_file_is_a_target_of_compile(tmp_path: Path) -> None:
    model, x = torch.nn.Linear(4, 4).eval(), torch.randn(2, 4)
    made: Any = graphopt.compile(model, (x,), target=written(tmp_path, BOX), simulate=True)
    torch.testing.assert_close(made(x), model(x))
