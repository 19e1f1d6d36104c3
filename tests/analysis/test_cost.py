"""Costs against independent counts: PyTorch's own FLOP counter, and a simulation of memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graphopt.analysis import CostModel, Interpreter, graph_cost, last_uses, peak_memory, register_flops
from graphopt.analysis.flops import EXTRA_RULES, Work
from graphopt.ir import Graph, Op, Param, ParamKind, TensorType, Value
from graphopt.ir.dims import evaluate
from graphopt.ops import parse, registry

CONV2D = "input %x: f32[{}]\nparameter %w: f32[{}]\n%y = aten.conv2d(%x, %w) {{{}}}\nreturn %y"
PRODUCTS = {
    "linear": "input %x: f32[5, 3, 8]\nparameter %w: f32[16, 8]\n%y = aten.linear(%x, %w)\nreturn %y",
    "mm": "input %x: f32[5, 8]\ninput %y: f32[8, 7]\n%z = aten.mm(%x, %y)\nreturn %z",
    "bmm": "input %x: f32[2, 5, 8]\ninput %y: f32[2, 8, 7]\n%z = aten.bmm(%x, %y)\nreturn %z",
    "matmul": "input %x: f32[2, 3, 5, 8]\ninput %y: f32[3, 8, 7]\n%z = aten.matmul(%x, %y)\nreturn %z",
    "conv1d": "input %x: f32[2, 4, 20]\nparameter %w: f32[6, 4, 3]\n%y = aten.conv1d(%x, %w) {stride=(2,)}\nreturn %y",
    "conv2d": CONV2D.format("2, 4, 9, 9", "6, 4, 3, 3", "padding=(1, 1)"),
    "grouped": CONV2D.format("2, 4, 9, 9", "8, 2, 3, 3", "groups=2"),
    "depthwise": CONV2D.format("1, 4, 9, 9", "4, 1, 3, 3", "groups=4"),
    "conv3d": "input %x: f32[1, 2, 5, 5, 5]\nparameter %w: f32[3, 2, 2, 2, 2]\n%y = aten.conv3d(%x, %w)\nreturn %y",
    "transposed": (
        "input %x: f32[2, 4, 5, 5]\nparameter %w: f32[4, 6, 3, 3]\n"
        "%y = aten.conv_transpose2d.input(%x, %w) {stride=(2, 2)}\nreturn %y"
    ),
    "transposed groups": (
        "input %x: f32[2, 4, 5, 5]\nparameter %w: f32[4, 3, 3, 3]\n"
        "%y = aten.conv_transpose2d.input(%x, %w) {groups=2}\nreturn %y"
    ),
    "attention": (
        "input %q: f32[2, 4, 6, 8]\ninput %k: f32[2, 4, 10, 8]\ninput %v: f32[2, 4, 10, 16]\n"
        "%y = aten.scaled_dot_product_attention(%q, %k, %v)\nreturn %y"
    ),
    "dynamic": "input %x: f32[N, M]\ninput %y: f32[M, 7]\n%z = aten.mm(%x, %y)\nreturn %z",
}


def tensor(value: Value, sizes: dict[str, int]) -> torch.Tensor:
    assert isinstance(value.type, TensorType)
    return torch.randn([evaluate(d, sizes) for d in value.type.shape])


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_as_pytorch_counts_them(name: str) -> None:
    graph, sizes = parse(PRODUCTS[name]), {"N": 3, "M": 9}
    with FlopCounterMode(display=False) as counter:
        Interpreter(graph).run(*(tensor(v, sizes) for v in graph.inputs))
    assert 2 * graph_cost(graph, sizes).macs == counter.get_total_flops()


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("%y = aten.relu(%x)", 24),
        ("%y = aten.gelu(%x)", 24),
        ("%y = aten.add.Tensor(%x, %x)", 24),
        ("%y = aten.sum(%x)", 24),
        ("%y = aten.amax(%x) {dim=(1,)}", 24),
        ("%y = aten.reshape(%x) {shape=(24,)}", 0),
        ("%y = aten.permute(%x) {dims=(1, 0)}", 0),
        ("%y = aten.cat(%x, %x)", 0),
        ("%y = aten.softmax.int(%x) {dim=1}", 5 * 24),
        ("%y = aten.layer_norm(%x) {normalized_shape=(6,)}", 8 * 24),
    ],
)
def test_other_operators(text: str, flops: int) -> None:
    cost = graph_cost(parse(f"input %x: f32[4, 6]\n{text}\nreturn %y"))
    assert cost.flops == flops and cost.macs == 0 and not cost.unknown


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bhqd,bhkd->bhqk", ["2, 3, 5, 8", "2, 3, 7, 8"]),
        ("ij,jk", ["4, 5", "5, 6"]),
        ("...ij,...jk->...ik", ["2, 3, 4, 5", "3, 5, 6"]),
        ("bi,ij,bj->b", ["2, 4", "4, 5", "2, 5"]),
        ("bqf,fg,bkg->bqk", ["2, 8, 6", "6, 7", "2, 5, 7"]),
    ],
)
def test_einsum_as_its_indices_say(equation: str, shapes: list[str]) -> None:
    inputs = "".join(f"input %x{i}: f32[{shape}]\n" for i, shape in enumerate(shapes))
    operands = ", ".join(f"%x{i}" for i in range(len(shapes)))
    graph = parse(inputs + f'%y = aten.einsum({operands}) {{equation="{equation}"}}\nreturn %y')
    with FlopCounterMode(display=False) as counter:
        Interpreter(graph).run(*(tensor(v, {}) for v in graph.inputs))
    assert 2 * graph_cost(graph).macs == counter.get_total_flops()


def test_bias_counts_as_additions() -> None:
    text = "input %x: f32[5, 8]\nparameter %w: f32[16, 8]\nparameter %b: f32[16]\n"
    cost = graph_cost(parse(text + "%y = aten.linear(%x, %w, %b)\nreturn %y"))
    assert (cost.macs, cost.flops) == (5 * 16 * 8, 2 * 5 * 16 * 8 + 5 * 16)


def test_matrix_times_vector() -> None:
    for op in ("matmul", "mv"):
        cost = graph_cost(parse(f"input %x: f32[5, 8]\ninput %y: f32[8]\n%z = aten.{op}(%x, %y)\nreturn %z"))
        assert cost.macs == 40


def test_pooling_counts_the_window() -> None:
    cost = graph_cost(parse("input %x: f32[1, 2, 8, 8]\n%y = aten.max_pool2d(%x) {kernel_size=(2, 2)}\nreturn %y"))
    assert cost.flops == 2 * 4 * 4 * 4


def test_recurrent_layers_as_their_equations_say() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(8, 16)
    text = (
        "input %x: f32[5, 3, 8]\ninput %h: f32[1, 3, 16]\ninput %c: f32[1, 3, 16]\nparameter %a: f32[64, 8]\n"
        "parameter %b: f32[64, 16]\nparameter %d: f32[64]\nparameter %e: f32[64]\n"
        "%y, %p, %q = aten.lstm.input(%x, %h, %c, %a, %b, %d, %e) {has_biases=true, num_layers=1, dropout=0.0, "
        "train=false, bidirectional=false, batch_first=false, operand_segment_sizes=(1, 2, 4)}\nreturn %y"
    )
    cost = graph_cost(parse(text))
    assert cost.macs == 5 * 3 * (64 * 8 + 64 * 16) and cost.parameters == sum(p.numel() for p in lstm.parameters())


def test_bytes_are_what_nodes_read_and_write() -> None:
    cost = graph_cost(
        parse(
            "input %x: f16[4, 6]\n%a = aten.relu(%x)\n%b = aten.reshape(%a) {shape=(24,)}\n%c = aten.neg(%b)\nreturn %c"
        )
    )
    assert cost.bytes == 2 * (24 + 24) * 2


def test_stored_tensors() -> None:
    text = "input %x: f32[4]\nparameter %w: f32[4]\nbuffer %b: i64[3]\nconstant %c: bool[5]\nreturn %x"
    cost = graph_cost(parse(text))
    assert cost.parameters == 4 and cost.constant_bytes == 16 + 24 + 5


def test_symbols_without_a_size_take_their_least_and_are_listed() -> None:
    graph = parse(
        "symbol A [3, 9]\nsymbol B [0, inf] multiple_of 4\ninput %x: f32[A, B, C]\n%y = aten.relu(%x)\nreturn %y"
    )
    cost = graph_cost(graph, {"C": 7})
    assert cost.assumed == {"A": 3, "B": 4} and cost.flops == 3 * 4 * 7


def test_an_unknown_operator_is_estimated_and_listed() -> None:
    op = Op(
        "costkit.mystery",
        (Param("x", ParamKind.OPERAND), Param("y", ParamKind.OPERAND)),
        infer=lambda call: [call.operand_types[0]],  # type: ignore[list-item]
    )
    registry.register(op)
    graph = parse(
        "input %x: f32[4]\ninput %y: f32[6]\n%z = costkit.mystery(%x, %y)\n%q = costkit.mystery(%z, %y)\nreturn %q"
    )
    cost = graph_cost(graph)
    assert cost.flops == 2 * (4 + 6 + 4) and cost.unknown == {"costkit.mystery": 2}
    register_flops("costkit.mystery", lambda shapes: Work(0, 100))
    try:
        cost = graph_cost(graph)
        assert cost.flops == 200 and not cost.unknown
    finally:
        del EXTRA_RULES["costkit.mystery"]


def test_branches_count_what_they_hold() -> None:
    graph = parse(
        """
        input %p: bool[]
        input %x: f32[4]
        %y = higher_order.cond(%p, %x) [
          graph then {
            input %a: f32[4]
            %b = aten.relu(%a)
            return %b
          }
          graph other {
            input %a: f32[4]
            %b = aten.neg(%a)
            %c = aten.neg(%b)
            return %c
          }
        ]
        return %y
        """
    )
    cost = graph_cost(graph)
    assert cost.nodes == 4 and cost.flops == 12


def test_equal_nodes_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"%v{i} = aten.neg(%{f'v{i - 1}' if i else 'x'})" for i in range(50)]
    graph = parse("\n".join(["input %x: f32[4]", *lines, "return %v49"]))
    model, computed = CostModel(), []
    compute = CostModel._compute
    monkeypatch.setattr(CostModel, "_compute", lambda self, node: computed.append(node) or compute(self, node))
    assert model.graph(graph).flops == 200 and len(computed) == 1


# Memory


def simulate(graph: Graph, sizes: dict[str, int]) -> int:
    """The peak by brute force: at each node, add up what is needed then or later. No views."""
    order = [*graph]
    born = dict.fromkeys(graph.inputs, -1)
    last: dict[Value, int] = dict.fromkeys(graph.inputs, -1)
    for position, node in enumerate(order):
        for result in node.results:
            born[result] = last[result] = position
        for operand in node.inputs:
            last[operand] = position
    for value in graph.returned:
        last[value] = len(order)

    def size(value: Value) -> int:
        assert isinstance(value.type, TensorType)
        count = 4
        for dim in value.type.shape:
            count *= evaluate(dim, sizes)
        return count

    start = sum(size(v) for v in graph.inputs)
    peaks = [sum(size(v) for v in born if born[v] <= t <= last[v]) for t in range(len(order))]
    return max([start, *peaks])


def random_graph(seed: int) -> Graph:
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> int:
        return int(torch.randint(0, n, (), generator=generator))

    lines, pool = ["input %x: f32[N, 6]", "input %y: f32[N, 6]"], ["x", "y"]
    for i in range(12):
        a, b = pool[-1 - draw(min(len(pool), 5))], pool[-1 - draw(min(len(pool), 5))]
        lines.append(f"%v{i} = " + (f"aten.add.Tensor(%{a}, %{b})" if draw(2) else f"aten.neg(%{a})"))
        pool.append(f"v{i}")
    lines.append(f"return %{pool[-1]}, %{pool[-1 - draw(6)]}, %x")
    return parse("\n".join(lines))


@pytest.mark.parametrize("seed", range(12))
def test_the_peak_is_that_of_a_simulation(seed: int) -> None:
    graph = random_graph(seed)
    assert peak_memory(graph, {"N": 3}) == simulate(graph, {"N": 3})
    assert graph_cost(graph, {"N": 3}).peak_bytes == simulate(graph, {"N": 3})


def test_views_share_memory_and_keep_it_alive() -> None:
    text = (
        "input %x: f32[4]\n%a = aten.neg(%x)\n%v = aten.reshape(%a) {shape=(2, 2)}\n%b = aten.neg(%a)\n"
        "%c = aten.neg(%b)\n%d = aten.neg(%v)\nreturn %c, %d"
    )
    graph = parse(text)
    # x dies after a; a lives until d through its view; b dies after c.
    assert peak_memory(graph, {}) == 3 * 16


def test_last_uses() -> None:
    graph = parse("input %x: f32[4]\n%a = aten.neg(%x)\n%b = aten.relu(%a)\n%dead = aten.abs(%x)\nreturn %b")
    found: dict[Any, Any] = {v.name: n.op.name for v, n in last_uses(graph).items()}
    assert found == {"a": "aten.relu", "x": "aten.abs", "b": "ir.return", "dead": "aten.abs"}


def test_costs_are_json_values() -> None:
    import json

    data = graph_cost(parse(PRODUCTS["dynamic"])).to_dict()
    assert json.loads(json.dumps(data))["assumed"] == {"N": 1, "M": 1}


def test_real_sizes_of_a_residual_network() -> None:
    """A ResNet block by hand: multiply-adds of its convolutions as the formula gives them."""
    text = "input %x: f32[1, 64, 56, 56]\nparameter %a: f32[64, 64, 3, 3]\nparameter %b: f32[64, 64, 3, 3]\n"
    text += "%p = aten.conv2d(%x, %a) {padding=(1, 1)}\n%q = aten.conv2d(%p, %b) {padding=(1, 1)}\nreturn %q"
    assert graph_cost(parse(text)).macs == 2 * 64 * 56 * 56 * 64 * 9


def test_every_pair_of_sizes_scales_as_it_should() -> None:
    graph = parse(PRODUCTS["dynamic"])
    for n, m in itertools.product((1, 2, 5), (1, 3)):
        assert graph_cost(graph, {"N": n, "M": m}).macs == n * m * 7
