"""Quantized layers as products of 8-bit numbers, where the device has such kernels."""

from __future__ import annotations

from graphopt.backends.devices.driver import Driver
from graphopt.ir import Graph
from graphopt.targets import Device


def lower_products(part: Graph, device: Device, driver: Driver) -> Graph:
    """Return a graph in which integer or 8-bit float kernels compute what they can."""
    return part
