"""Targets by name: entry points of the group `graphopt.targets`, devices of this machine (`"cuda:1"`, `"cpu+cuda"`,
`"auto"`), and files."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points

from graphopt.errors import TargetError, unknown_name
from graphopt.targets.device import Device, Link
from graphopt.targets.machine import cpu_device, cuda_count, cuda_device
from graphopt.targets.sheets import LINK_LATENCY, PCIE4
from graphopt.targets.target import Target
from graphopt.targets.target_file import SUFFIX, load_target

GROUP = "graphopt.targets"
AUTO = "auto"


def get_target(name: str | os.PathLike[str] | Target) -> Target:
    """Return a target by name (a `Target` is returned as it is).

    name: an installed target; `"cuda"` or `"cuda:1"`, a GPU; `"cpu+cuda"`, devices of this machine together, the
        first of which holds inputs and outputs; `"auto"`, the GPU where there is one, else the CPU; or the path of a
        `.toml` file. GPUs that this machine lacks are those of a data sheet, for plans.

    Raises:
        UnknownNameError: no such target; the message suggests near names.
        TargetError: a third party's entry point does not load, or a file that holds no target.

    >>> get_target("fx").trainable, [d.name for d in get_target("cpu+cuda:1").devices]
    (True, ['cpu', 'cuda:1'])
    """
    if isinstance(name, Target):
        return name
    name = os.fspath(name)
    if name.endswith(SUFFIX):
        return load_target(name)
    if name == AUTO:
        return get_target("cuda" if cuda_count() else "cpu")
    known = _entry_points()
    if name in known:
        return _load(name, known[name])
    parts = name.split("+")
    if all(part == "cpu" or _is_cuda(part) for part in parts):
        return _of_devices(name, [cpu_device() if part == "cpu" else cuda_device(_index(part)) for part in parts])
    hint = f"Known targets: {', '.join(target_names())}; devices, as cuda:1 or cpu+cuda; or a {SUFFIX} file."
    raise unknown_name("target", name, target_names(), hint)


def target_names() -> tuple[str, ...]:
    """Return the names of all targets that need no index, sorted."""
    return tuple(sorted({*_entry_points(), AUTO, "cuda", "cpu+cuda"}))


def require_devices(target: Target) -> None:
    """Check that this machine has the devices of a target.

    Raises:
        TargetError: it lacks one; the message says what is missing, and what can be done without.
    """
    count = cuda_count()
    for device in target.devices:
        if device.kind == "cpu":
            continue
        if device.kind != "cuda":
            why = f"graphopt plans for a {device.kind} and runs on none"
        elif _index(device.name) < count:
            continue
        elif count:
            why = f"this machine has {count} CUDA device{'s' * (count > 1)}, numbered from 0"
        else:
            why = _why_no_cuda()
        raise TargetError(
            f"target {target.name!r} needs {device.name}, and {why}. Use target='cpu', or simulate=True to run what is "
            "meant for it on the CPU"
        )


def _of_devices(name: str, devices: list[Device]) -> Target:
    links = [
        Link(a.name, b.name, bandwidth=PCIE4, latency=LINK_LATENCY)
        for position, a in enumerate(devices)
        for b in devices[position + 1 :]
    ]
    described = " and ".join("this CPU" if device.kind == "cpu" else device.name for device in devices)
    return Target(name, described, ("eager",), devices=tuple(devices), links=tuple(links))


def _is_cuda(part: str) -> bool:
    kind, colon, index = part.partition(":")
    return kind == "cuda" and (index.isdecimal() if colon else True)


def _index(name: str) -> int:
    index = name.partition(":")[2]
    return int(index) if index else 0


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA (https://pytorch.org/get-started lists builds with it)"
    return f"there is no CUDA device here (PyTorch is built for CUDA {torch.version.cuda}; is the driver loaded?)"


def _load(name: str, entry: EntryPoint) -> Target:
    try:
        target = entry.load()
    except Exception as error:
        raise TargetError(f"target {name!r} does not load from {entry.value!r}: {error}") from error
    if not isinstance(target, Target):
        raise TargetError(f"entry point {entry.value!r} of target {name!r} is no graphopt Target")
    return target


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
