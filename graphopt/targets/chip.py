"""What the chip that runs a result does to integer products, as data.

Kernels of x86 without the instructions called VNNI multiply unsigned by signed bytes and add the products in pairs, in
16 bits: 255·127 + 255·127 is more than they hold, and saturates. With weights of 7 bits no pair can.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from graphopt.errors import unknown_name

CPUINFO = Path("/proc/cpuinfo")
X86 = ("x86_64", "amd64", "i386", "i686")


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
        return chip_with(features or _features())
    if name not in CHIPS:
        raise unknown_name("chip", name, CHIPS, f"Known chips: {', '.join(CHIPS)}.")
    return CHIPS[name]


def chip_with(features: Collection[str]) -> Chip:
    """Return the chip that has these instruction sets, as Linux and devices of targets call them."""
    if any("vnni" in feature for feature in features):
        return CHIPS["vnni"]
    return CHIPS["avx2" if any(feature.startswith(("avx", "sse", "ssse")) for feature in features) else "other"]


def flags_of(cpuinfo: str, machine: str) -> frozenset[str]:
    """Return the flags that Linux lists; x86 of which nothing is known is taken to have AVX2 alone.

    >>> sorted(flags_of("flags : avx2 avx_vnni", "x86_64")), sorted(flags_of("", "AMD64"))
    (['avx2', 'avx_vnni'], ['avx2'])
    """
    lines = (line.partition(":") for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    found = frozenset(word for _, _, words in lines for word in words.split())
    return found or frozenset({"avx2"} if machine.lower() in X86 else ())


@lru_cache(maxsize=1)
def _features() -> frozenset[str]:
    """The features of this machine."""
    return flags_of(CPUINFO.read_text() if CPUINFO.is_file() else "", platform.machine())
