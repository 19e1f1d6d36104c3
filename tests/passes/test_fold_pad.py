from __future__ import annotations

import pytest

from graphopt.passes.fold_pad import FoldPad

X = "input %x: f32[N, 3, 6, 5]\nparameter %w: f32[4, 3, 3, 3]\n"

REWRITES = [
    (
        "pad-into-conv",
        "%a = aten.constant_pad_nd(%x) {pad=(1, 1, 2, 2)}\n%r = aten.conv2d(%a, %w)",
        "%r = aten.conv2d(%x, %w) {padding=(2, 1)}",
    ),
    (
        "pad-into-conv",
        "%a = aten.pad(%x) {pad=(1, 1)}\n%r = aten.conv2d(%a, %w) {padding=(1, 2), stride=2}",
        "%r = aten.conv2d(%x, %w) {padding=(1, 3), stride=2}",
    ),
    (
        "pad-into-average-pool",
        "%a = aten.constant_pad_nd(%x) {pad=(1, 1, 1, 1)}\n%r = aten.avg_pool2d(%a) {kernel_size=3, stride=1}",
        "%r = aten.avg_pool2d(%x) {kernel_size=3, stride=1, padding=1}",
    ),
    (
        "pad-into-max-pool",
        "%a = aten.constant_pad_nd(%x) {pad=(1, 1, 1, 1), value=-inf}\n%r = aten.max_pool2d(%a) {kernel_size=2}",
        "%r = aten.max_pool2d(%x) {kernel_size=2, padding=1}",
    ),
    (
        "pad-into-max-pool",
        "%b = aten.relu(%x)\n%a = aten.constant_pad_nd(%b) {pad=(1, 1, 1, 1)}\n"
        "%r = aten.max_pool2d(%a) {kernel_size=3, stride=2}",
        "%b = aten.relu(%x)\n%r = aten.max_pool2d(%b) {kernel_size=3, stride=2, padding=1}",
    ),
    (
        "merge-pads",
        "%a = aten.constant_pad_nd(%x) {pad=(1, 2), value=3.0}\n"
        "%r = aten.constant_pad_nd(%a) {pad=(0, 1, 4, 0), value=3.0}",
        "%r = aten.constant_pad_nd(%x) {pad=(1, 3, 4, 0), value=3.0}",
    ),
]


@pytest.mark.parametrize(("rule", "before", "after"), REWRITES)
def test_rewrite(check, rule: str, before: str, after: str) -> None:
    check(
        FoldPad(),
        f"{X}{before}\nreturn %r",
        f"{X}{after}\nreturn %r",
        applied={rule: 1},
        special=rule != "pad-into-conv",
    )


DECLINED = [
    ("%a = aten.constant_pad_nd(%x) {pad=(0, 1, 0, 1)}\n%r = aten.conv2d(%a, %w)", "both sides"),
    ("%a = aten.constant_pad_nd(%x) {pad=(-1, -1)}\n%r = aten.conv2d(%a, %w)", "both sides"),
    ("%a = aten.constant_pad_nd(%x) {pad=(1, 1), value=1.0}\n%r = aten.conv2d(%a, %w)", "not of zeros"),
    ('%a = aten.pad(%x) {pad=(1, 1, 1, 1), mode="reflect"}\n%r = aten.conv2d(%a, %w)', "not of zeros"),
    ('%a = aten.constant_pad_nd(%x) {pad=(1, 1)}\n%r = aten.conv2d.padding(%a, %w) {padding="same"}', "no list"),
    ("%a = aten.constant_pad_nd(%x) {pad=(1, 1)}\n%r = aten.max_pool2d(%a) {kernel_size=3}", "exceed"),
    (
        "%a = aten.constant_pad_nd(%x) {pad=(2, 2), value=-inf}\n%r = aten.max_pool2d(%a) {kernel_size=3}",
        "cannot pad so much",
    ),
    (
        "%a = aten.constant_pad_nd(%x) {pad=(1, 1)}\n%r = aten.avg_pool2d(%a) {kernel_size=3, count_include_pad=false}",
        "count",
    ),
    (
        "%a = aten.constant_pad_nd(%x) {pad=(1, 1)}\n%r = aten.constant_pad_nd(%a) {pad=(1, 1), value=2}",
        "different values",
    ),
]


@pytest.mark.parametrize(("before", "reason"), DECLINED)
def test_declined(check, before: str, reason: str) -> None:
    check(FoldPad(), f"{X}{before}\nreturn %r", declined=reason)
