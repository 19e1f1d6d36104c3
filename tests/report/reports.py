"""Reports to look at: of a made-up transformer of any size, compiled without measuring anything."""

from __future__ import annotations

from functools import cache

from graphopt.html_report import Peaks, skeleton
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passmanager import PassManager
from graphopt.report import CompileReport

WIDTH = 16

# One block: attention in two parts with a residual, then a feed-forward part with another.
BLOCK = """
%{i}.a = aten.layer_norm(%{x}, %{n}) {{normalized_shape=(16,)}} @ "net.py":10 "layers.{i}.norm1"
%{i}.q = aten.linear(%{i}.a, %{w}) @ "net.py":20 "layers.{i}.attention.query"
%{i}.k = aten.linear(%{i}.a, %{w}) @ "net.py":21 "layers.{i}.attention.key"
%{i}.v = aten.linear(%{i}.a, %{w}) @ "net.py":22 "layers.{i}.attention.value"
%{i}.t = aten.transpose.int(%{i}.k) {{dim0=0, dim1=1}} @ "net.py":23 "layers.{i}.attention"
%{i}.s = aten.matmul(%{i}.q, %{i}.t) @ "net.py":24 "layers.{i}.attention"
%{i}.d = aten.div.Scalar(%{i}.s) {{other=4.0}} @ "net.py":24 "layers.{i}.attention"
%{i}.p = aten.softmax.int(%{i}.d) {{dim=-1}} @ "net.py":25 "layers.{i}.attention"
%{i}.o = aten.matmul(%{i}.p, %{i}.v) @ "net.py":26 "layers.{i}.attention"
%{i}.z = aten.linear(%{i}.o, %{w}) @ "net.py":27 "layers.{i}.attention.out"
%{i}.r = aten.add.Tensor(%{x}, %{i}.z) @ "net.py":11 "layers.{i}"
%{i}.b = aten.layer_norm(%{i}.r, %{n}) {{normalized_shape=(16,)}} @ "net.py":12 "layers.{i}.norm2"
%{i}.e = aten.add.Scalar(%{i}.b) {{other=0}} @ "net.py":30 "layers.{i}.feed_forward"
%{i}.f = aten.linear(%{i}.e, %{w}) @ "net.py":31 "layers.{i}.feed_forward.up"
%{i}.g = aten.gelu(%{i}.f) @ "net.py":32 "layers.{i}.feed_forward"
%{i}.h = aten.linear(%{i}.g, %{w}) @ "net.py":33 "layers.{i}.feed_forward.down"
%{i}.m = aten.mul.Scalar(%{i}.h) {{other=1}} @ "net.py":34 "layers.{i}.feed_forward"
%{i}.u = aten.neg(%{i}.m) @ "net.py":35 "layers.{i}.feed_forward"
%{i}.l = aten.neg(%{i}.u) @ "net.py":35 "layers.{i}.feed_forward"
%{i}.y = aten.add.Tensor(%{i}.r, %{i}.l) @ "net.py":13 "layers.{i}"
"""
NODES = BLOCK.count("=") - BLOCK.count("{{") - BLOCK.count(", dim1=")


def transformer(nodes: int) -> Graph:
    """A graph of about so many nodes, in modules `layers.0`, `layers.1`, …"""
    return parse(_text(nodes))


@cache
def _text(nodes: int) -> str:
    lines = ["input %x: f32[8, 16]", "parameter %w: f32[16, 16]", "parameter %n: f32[16]"]
    x = "x"
    for index in range(max(nodes // 20, 1)):
        lines.append(BLOCK.format(i=f"b{index}", x=x, w="w", n="n").replace("layers.b", "layers.").strip())
        x = f"b{index}.y"
    return "\n".join([*lines, f"return %{x}"])


def report_of(graph: Graph, model: str = "Transformer") -> CompileReport:
    """The report of a few passes over a graph, with a described machine."""
    optimized, passes = PassManager("canonicalize,common-subexpressions,dead-code", validate=False).run(graph)
    peaks = Peaks(2e11, 2e10, source="described")
    return CompileReport(
        "cpu", passes, model=model, engine="eager", before=skeleton(graph), after=optimized, peaks=peaks
    )
