"""What the chip that runs a result does to integer products, as data.

Kernels of x86 without the instructions called VNNI multiply unsigned by signed bytes and add the products in pairs, in
16 bits: 255·127 + 255·127 is more than they hold, and saturates. With weights of 7 bits no pair can.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from graphopt.errors import unknown_name
from graphopt.targets.cpuinfo import chip_flags


@dataclass(frozen=True)
class Chip:
    """A kind of chip. saturates: whether pairs of products of bytes are added in 16 bits."""

    name: str
    saturates: bool


CHIPS: dict[str, Chip] = {chip.name: chip for chip in (Chip("avx2", True), Chip("vnni", False), Chip("other", False))}
"""By name: x86 without VNNI, x86 with it (AVX-512 or AVX), and chips on which products never meet in 16 bits."""


def get_chip(name: str = "", features: Collection[str] = ()) -> Chip:
    """Return a chip by name, or else by the features that a device has, or else that of this machine.

    Raises:
        UnknownNameError: there is no such chip; the message suggests near names.

    >>> get_chip("avx2").saturates, get_chip("vnni").saturates, get_chip(features=("avx2", "avx_vnni")).name
    (True, False, 'vnni')
    """
    if not name:
        return chip_with(features or chip_flags())
    if name not in CHIPS:
        raise unknown_name("chip", name, CHIPS, f"Known chips: {', '.join(CHIPS)}.")
    return CHIPS[name]


def chip_with(features: Collection[str]) -> Chip:
    """Return the chip that has these instruction sets, as Linux and devices of targets call them."""
    if any("vnni" in feature for feature in features):
        return CHIPS["vnni"]
    return CHIPS["avx2" if any(feature.startswith(("avx", "sse", "ssse")) for feature in features) else "other"]
