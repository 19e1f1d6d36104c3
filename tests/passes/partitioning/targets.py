"""Described targets of two and three devices."""

from __future__ import annotations

from itertools import combinations

from graphopt.targets import Device, Link, Target

CPU = Device("cpu", "cpu", memory=1 << 30, peak={"f32": 4e9}, bandwidth=4e9, launch=2e-6)
GPUS = (
    Device("gpu:0", "cuda", memory=1 << 30, peak={"f32": 4e11}, bandwidth=1e11, launch=1e-6),
    Device("gpu:1", "cuda", memory=1 << 30, peak={"f32": 2e11}, bandwidth=8e10, launch=1e-6),
)


def described(gpus: int) -> Target:
    """A CPU and some GPUs, every pair linked."""
    devices = (CPU, *GPUS[:gpus])
    links = tuple(Link(a.name, b.name, bandwidth=2e10, latency=1e-6) for a, b in combinations(devices, 2))
    return Target(f"{gpus + 1}-devices", "for tests", ("eager",), devices=devices, links=links)
