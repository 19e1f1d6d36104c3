"""Targets: what a model is compiled for. Third parties add theirs through the entry-point group `graphopt.targets`, or
as a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.errors import TargetError
from graphopt.targets.device import Capability, Device, Link, refuse


@dataclass(frozen=True)
class Target:
    """What a model is compiled for.

    engines: candidates that may run the result; with several, the fastest on the sample inputs is taken. Without
        any, the result is an FX module that the caller owns.
    trainable: whether the result is meant to be trained; batch norms then stay, dropout too.
    width_multiple: what the widths of layers are best multiples of, since kernels compute so many channels at once.
    devices: what may run nodes; inputs come from the first one and outputs go back to it. links: between them, each
        in both directions unless it says otherwise. capabilities: what devices can run.
    chip: what kind of CPU runs the result, a name that `get_chip` knows; "" is that of this machine.

    Raises:
        TargetError: a field that does not hold what it should; the message names it.
    """

    name: str
    description: str = ""
    engines: tuple[str, ...] = ()
    trainable: bool = False
    width_multiple: int = 8
    chip: str = ""
    devices: tuple[Device, ...] = ()
    links: tuple[Link, ...] = ()
    capabilities: tuple[Capability, ...] = ()

    def __post_init__(self) -> None:
        what = f"target {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise refuse(what, "name", "a word", self.name)
        for name in ("description", "chip"):
            if not isinstance(getattr(self, name), str):
                raise refuse(what, name, "text", getattr(self, name))
        if not isinstance(self.engines, tuple) or not all(isinstance(name, str) for name in self.engines):
            raise refuse(what, "engines", "a list of names", self.engines)
        if not isinstance(self.trainable, bool):
            raise refuse(what, "trainable", "true or false", self.trainable)
        if not isinstance(self.width_multiple, int) or isinstance(self.width_multiple, bool) or self.width_multiple < 1:
            raise refuse(what, "width_multiple", "a positive whole number", self.width_multiple)
        for name, kind in (("devices", Device), ("links", Link), ("capabilities", Capability)):
            given = getattr(self, name)
            if not isinstance(given, tuple) or not all(isinstance(item, kind) for item in given):
                raise refuse(what, name, f"a tuple of {kind.__name__} objects", given)
        self._check_names(what)

    def _check_names(self, what: str) -> None:
        names = [device.name for device in self.devices]
        for name in names:
            if names.count(name) > 1:
                raise TargetError(f"{what}: there are two devices of the name {name!r}")
        for link in self.links:
            for end in (link.source, link.sink):
                if end not in names:
                    raise TargetError(f"{what}: a link names {end!r}, which is no device; there are {_listed(names)}")
        known = {*names, *(device.kind for device in self.devices)}
        for row in self.capabilities:
            for name in row.devices:
                if name not in known:
                    raise TargetError(
                        f"{what}: the capability {row.operator!r} names {name!r}, which is no device or kind of one; "
                        f"there are {_listed(sorted(known))}"
                    )

    def device(self, name: str) -> Device:
        """Return a device by name.

        Raises:
            TargetError: there is none of that name.
        """
        for device in self.devices:
            if device.name == name:
                return device
        raise TargetError(
            f"target {self.name!r} has no device {name!r}; it has {_listed([d.name for d in self.devices])}"
        )

    def link(self, source: str, sink: str) -> Link:
        """Return the link from one device to another.

        Raises:
            TargetError: there is none.
        """
        for link in self.links:
            if (link.source, link.sink) == (source, sink):
                return link
        for link in self.links:
            if (link.sink, link.source) == (source, sink) and not link.one_way:
                return link
        raise TargetError(
            f"target {self.name!r} has no link from {source!r} to {sink!r}; add one, as "
            f"Link({source!r}, {sink!r}, bandwidth=16e9, latency=10e-6)"
        )

    def rows(self, device: Device) -> Iterator[Capability]:
        """The capability rows about a device."""
        return (row for row in self.capabilities if row.covers(device))

    def can_run(self, device: Device, operator: str, dtype: str = "") -> bool:
        """Whether a device runs an operator with results of a dtype: one without capability rows runs everything.

        What an ONNX file brings along and nothing else knows runs on CPUs only.
        """
        if operator.startswith("onnx.") and device.kind != "cpu":
            return False
        rows = list(self.rows(device))
        return not rows or any(row.allows(operator, dtype) for row in rows)


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
