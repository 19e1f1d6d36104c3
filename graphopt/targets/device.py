"""What a target is made of: devices, the links between them, and what each can run. All of it is data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from graphopt.errors import TargetError
from graphopt.ir import DType

KINDS = ("cpu", "cuda", "tpu", "fpga", "npu")
LAYOUTS = ("contiguous", "channels_last")
GRANULARITIES = ("", "tensor", "channel", "block")
SPILLS = ("", "host", "disk")
SCALES = ("", "integer", "any", "same")
_NAME = re.compile(r"[A-Za-z_]\w*(:\d+)?")
_DTYPES = frozenset(d.value for d in DType)
_BITS = {d.value: d.bits for d in DType}


def refuse(what: str, name: str, wanted: str, got: Any) -> TargetError:
    """The error for a field that does not hold what it should."""
    return TargetError(f"{what}: {name} must be {wanted}, got {got!r}")


@dataclass(frozen=True)
class Device:
    """Something that runs nodes and holds tensors.

    name: as it stands in types, `gpu:0`. kind: what it is, one of `KINDS`.
    memory: bytes for weights and live values; None is no limit.
    peak: FLOP/s (a multiply-add counts twice) by dtype, `{"f32": 19.5e12}`. bandwidth: bytes/s of its memory.
    launch: seconds that each operator takes besides.
    multiples: what widths are best multiples of, by dtype. layouts: memory formats, the preferred one first.
    features: instruction sets and units that decide which kernels run, as `avx2`.
    local: whether it is a device of this machine, so that times that were measured here count.
    engine: what runs its part of a model, as `onnxruntime`; "" is PyTorch.
    spill: where weights go that it has no room for, `host` or `disk`; they come in before they are read. "": nowhere.
    power: watts while it works. energy: joules that it may use in a run; None is no limit.

    Raises:
        TargetError: a field that does not hold what it should; the message names it.

    >>> Device("gpu:0", "cuda", memory=16 << 30, peak={"f32": 8e12}, bandwidth=3e11).rate("f16")
    8000000000000.0
    """

    name: str
    kind: str = "cpu"
    memory: int | None = None
    peak: Mapping[str, float] = field(default_factory=dict, hash=False)
    bandwidth: float = 1e10
    launch: float = 0.0
    multiples: Mapping[str, int] = field(default_factory=dict, hash=False)
    layouts: tuple[str, ...] = ("contiguous",)
    features: tuple[str, ...] = ()
    local: bool = False
    power: float | None = None
    energy: float | None = None
    engine: str = ""
    spill: str = ""

    def __post_init__(self) -> None:
        what = f"device {self.name!r}"
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise refuse(what, "name", "a word, or a word and a number, as 'gpu:0'", self.name)
        _one_of(what, "kind", self.kind, KINDS)
        if self.memory is not None and (not _is_whole(self.memory) or self.memory <= 0):
            raise refuse(what, "memory", "a positive whole number of bytes", self.memory)
        _by_dtype(what, "peak", self.peak, _is_positive, "a positive number of FLOP/s for each dtype")
        _by_dtype(what, "multiples", self.multiples, _is_multiple, "a positive whole number for each dtype")
        if not self.peak:
            raise refuse(what, "peak", "a positive number of FLOP/s for at least one dtype", dict(self.peak))
        if not _is_positive(self.bandwidth):
            raise refuse(what, "bandwidth", "a positive number of bytes/s", self.bandwidth)
        if not _is_time(self.launch):
            raise refuse(what, "launch", "seconds, 0 or more", self.launch)
        _words(what, "layouts", self.layouts, LAYOUTS)
        _words(what, "features", self.features)
        if not isinstance(self.engine, str):
            raise refuse(what, "engine", "the name of an engine", self.engine)
        _one_of(what, "spill", self.spill, SPILLS)
        if not isinstance(self.local, bool):
            raise refuse(what, "local", "true or false", self.local)
        for name, value, unit in (("power", self.power, "watts"), ("energy", self.energy, "joules")):
            if value is not None and not _is_positive(value):
                raise refuse(what, name, f"a positive number of {unit}", value)
        if self.energy is not None and self.power is None:
            raise refuse(what, "power", "given, since energy is", None)

    def rate(self, dtype: str) -> float:
        """Peak FLOP/s in a dtype; where the device does not say, that of the narrowest dtype at least as wide, or of
        the widest."""
        if dtype in self.peak:
            return self.peak[dtype]
        by_width = sorted(self.peak, key=lambda name: _BITS[name])
        return self.peak[next((n for n in by_width if _BITS[n] >= _BITS.get(dtype, 32)), by_width[-1])]

    @property
    def busy(self) -> float:
        """The seconds that the device may work in a run, by its energy."""
        return math.inf if self.energy is None or self.power is None else self.energy / self.power


@dataclass(frozen=True)
class Link:
    """How bytes get from one device to another: `latency` seconds, then `bandwidth` bytes a second.

    one_way: only from `source` to `sink`.
    """

    source: str
    sink: str
    bandwidth: float
    latency: float = 0.0
    one_way: bool = False

    def __post_init__(self) -> None:
        what = f"link {self.source!r} to {self.sink!r}"
        if self.source == self.sink:
            raise refuse(what, "to", "another device than from", self.sink)
        if not _is_positive(self.bandwidth):
            raise refuse(what, "bandwidth", "a positive number of bytes/s", self.bandwidth)
        if not _is_time(self.latency):
            raise refuse(what, "latency", "seconds, 0 or more", self.latency)
        if not isinstance(self.one_way, bool):
            raise refuse(what, "one_way", "true or false", self.one_way)

    def seconds(self, size: float) -> float:
        """How long `size` bytes take."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True)
class Capability:
    """One row of what devices can run. A device with rows runs only what they name; one without runs everything.

    operator: a name or pattern, `aten.conv2d`, `aten.*`. devices: names or kinds; none means all devices.
    dtypes: of the results; none means any. layouts: memory formats that its kernels take.
    granularity: of scales: `tensor`, `channel` or `block`. symmetric: quantized without zero points only.
    fusion: operators that go into this one, in order. scales: `integer`: the result must be quantized; `any`: it may
    stay a float; `same`: it shares the scale of the inputs.
    """

    operator: str
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    granularity: str = ""
    symmetric: bool = False
    fusion: tuple[str, ...] = ()
    scales: str = ""

    def __post_init__(self) -> None:
        what = f"capability {self.operator!r}"
        if not isinstance(self.operator, str) or not self.operator:
            raise refuse(what, "operator", "the name of an operator, or a pattern", self.operator)
        _words(what, "devices", self.devices)
        _words(what, "dtypes", self.dtypes, sorted(_DTYPES))
        _words(what, "layouts", self.layouts, LAYOUTS)
        _words(what, "fusion", self.fusion)
        _one_of(what, "granularity", self.granularity, GRANULARITIES)
        _one_of(what, "scales", self.scales, SCALES)
        if not isinstance(self.symmetric, bool):
            raise refuse(what, "symmetric", "true or false", self.symmetric)

    def covers(self, device: Device) -> bool:
        """Whether the row is about a device."""
        return not self.devices or device.name in self.devices or device.kind in self.devices

    def allows(self, operator: str, dtype: str) -> bool:
        """Whether the row lets an operator with results of a dtype run."""
        return fnmatchcase(operator, self.operator) and (not self.dtypes or not dtype or dtype in self.dtypes)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_time(value: Any) -> bool:
    return (value == 0 and not isinstance(value, bool)) or _is_positive(value)


def _is_multiple(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _by_dtype(what: str, name: str, given: Any, holds: Any, wanted: str) -> None:
    if not isinstance(given, Mapping):
        raise refuse(what, name, wanted, given)
    for dtype, value in given.items():
        _one_of(what, f"the dtype of {name}", dtype, sorted(_DTYPES))
        if not holds(value):
            raise refuse(what, f"{name}[{dtype}]", wanted, value)


def _words(what: str, name: str, given: Any, allowed: Any = ()) -> None:
    if not isinstance(given, tuple) or not all(isinstance(word, str) for word in given):
        raise refuse(what, name, "a list of words", given)
    for word in given if allowed else ():
        _one_of(what, name, word, allowed)


def _one_of(what: str, name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise refuse(what, name, f"one of {', '.join(repr(a) for a in allowed)}", value)
