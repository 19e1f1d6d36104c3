"""The text form: what is printed reads back as the same graph, and what does not read says where."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from graphopt.errors import GraphOptError, ParseError
from graphopt.ir import (
    Attributes,
    Constant,
    DType,
    Graph,
    Node,
    Symbol,
    TensorType,
    Value,
    difference,
    parse_graph,
    print_graph,
    print_node,
    verify,
    walk,
)
from graphopt.ir.dims import dim_max, from_symbol
from graphopt.ir.printer import is_inline, printed_constants
from graphopt.ops import parse
from tests.ir.random_graphs import graphs, resolve

SETTINGS = settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))


def stored(graph: Graph) -> dict[str, torch.Tensor]:
    """The data of the constants that the text leaves out."""
    found: dict[str, torch.Tensor] = {}
    for name, value in printed_constants(graph).items():
        assert value.constant is not None
        if not is_inline(value.constant):
            found[name] = value.constant.tensor
    return found


@SETTINGS
@given(graphs())
def test_printed_graphs_read_back(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text, resolve, stored(graph))
    assert difference(graph, again) is None
    assert print_graph(again) == text
    verify_if_symbols_are_bound(again)


def verify_if_symbols_are_bound(graph: Graph) -> None:
    """Random graphs mention symbols freely; apart from that they are valid."""
    try:
        verify(graph)
    except GraphOptError as error:
        assert "is not bound" in str(error), error


@SETTINGS
@given(graphs())
def test_locations_can_be_left_out(graph: Graph) -> None:
    text = print_graph(graph, locations=False)
    again = parse_graph(text, resolve, stored(graph))
    assert difference(graph, again, locations=False) is None


def test_special_numbers_read_back() -> None:
    tensor = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45, 3.4e38, 0.1])
    graph = Graph()
    graph.set_outputs([graph.add_constant("c", TensorType(DType.F32, (7,)), Constant(tensor))])
    text = print_graph(graph)
    assert "= (nan, inf, -inf, -0.0, 1e-45, 3.4e+38, 0.1)" in text
    again = parse_graph(text, resolve).constants["c"].constant
    assert again is not None
    assert again.tensor.view(torch.int32).tolist() == tensor.view(torch.int32).tolist()


@pytest.mark.parametrize("name", ["inf", "nan", "none", "true", "f32", "dim", "complex", "two words", "max", "s.0"])
def test_symbols_of_any_name_read_back_in_attributes(name: str) -> None:
    symbol = from_symbol(Symbol(name))
    for dim in (symbol, -symbol, 2 * symbol, 1 - symbol, (symbol + 1) // 2, -((symbol + 1) // 2), dim_max(symbol, 3)):
        graph = Graph()
        graph.add_input("x", TensorType(DType.F32, (symbol,)))
        graph.append(Node(resolve("test.source"), [], Attributes({"a": dim, "b": (dim, (dim,))})))
        assert difference(graph, parse_graph(print_graph(graph), resolve)) is None


def test_nan_with_a_payload_is_stored_by_hash() -> None:
    tensor = torch.tensor([0x7FC12345], dtype=torch.int32).view(torch.float32)
    assert not is_inline(Constant(tensor))
    assert is_inline(Constant(torch.tensor([math.nan])))


def test_large_constants_are_named_by_hash_and_checked() -> None:
    graph = parse("parameter %w: f32[5, 5] requires_grad\nreturn %w")
    text = print_graph(graph)
    assert 'parameter %w: f32[5, 5] requires_grad sha256 "' in text
    weight = graph.constants["w"].constant
    assert weight is not None
    assert difference(graph, parse(text, {"w": weight.tensor.clone()})) is None
    with pytest.raises(ParseError, match="the data of constant 'w' was not given"):
        parse(text)
    with pytest.raises(ParseError, match="the data of constant 'w' has another hash"):
        parse(text, {"w": weight.tensor + 1})
    with pytest.raises(ParseError, match="the data given for 'w' is"):
        parse("parameter %w: f32[5, 5]\nreturn %w", {"w": torch.zeros(2)})


def test_hash_is_recomputed_after_a_change() -> None:
    graph = parse("parameter %w: f32[5, 5]\nreturn %w")
    before = print_graph(graph)
    tensor = graph.constants["w"].constant.tensor  # type: ignore[union-attr]
    assert print_graph(graph) == before
    tensor.add_(1)
    assert print_graph(graph) != before


def test_constants_of_regions_have_data_of_their_own() -> None:
    text = """
    graph main {
      parameter %w: f32[5, 5]
      input %p: bool[]
      %y: f32[5, 5] = higher_order.cond(%p) [
        graph then {
          parameter %w: f32[5, 5]
          return %w
        }
        graph other {
          parameter %w: f32[5, 5]
          return %w
        }
      ]
      return %w, %y
    }"""
    graph = parse(text, {"w": torch.zeros(5, 5)})
    for number, region in enumerate(graph.nodes[0].regions):
        value = region.constants["w"]
        value.constant = Constant(torch.full((5, 5), float(number)), value.constant.kind, ("w",))  # type: ignore[union-attr]
    printed = print_graph(graph)
    assert 'parameter %w_1 as "w"' in printed and 'parameter %w_2 as "w"' in printed
    assert difference(graph, parse(printed, stored(graph))) is None


def test_abbreviations() -> None:
    graph = parse("""
    // a comment
    input %x: f32[N, 8]

    %y = relu(%x)  // another
    %z: f32[N//2*2, 8] = slice.Tensor(%y) {end=N//2*2}
    return %y, %z
    """)
    assert (
        print_graph(graph)
        == """graph main {
  symbol N [0, inf]
  input %x: f32[N, 8]
  %y: f32[N, 8] = aten.relu(%x)
  %z: f32[2*(N//2), 8] = aten.slice.Tensor(%y) {end=2*(N//2)}
  return %y, %z
}"""
    )


def test_attribute_lists_in_brackets() -> None:
    graph = parse("input %x: f32[6]\n%y = reshape(%x) {shape=[2, -1]}\nreturn %y")
    assert graph.nodes[0].attributes["shape"] == (2, -1)


def test_names_are_kept_and_numbers_are_given_anew() -> None:
    graph = parse('input %"a b": f32[2]\n%7 = relu(%"a b")\n%8 = relu(%7)\n%c.d$ = relu(%8)\nreturn %c.d$')
    assert [value.name for node in graph for value in node.results] == ["", "", "c.d$"]
    assert '%0: f32[2] = aten.relu(%"a b")' in print_graph(graph)


def test_values_of_one_name_are_told_apart() -> None:
    graph = parse("input %x: f32[2]\n%a = relu(%x)\n%b = neg(%a)\nreturn %b")
    for node in graph:
        node.result.name = "x"
    text = print_graph(graph)
    assert "%x_1: f32[2] = aten.relu(%x)" in text and "%x_2: f32[2] = aten.neg(%x_1)" in text
    assert difference(graph, parse(text)) is None


def test_data_dependent_sizes_are_named_around_the_names_in_the_text() -> None:
    graph = parse("""
    input %x: f32[4]
    input %k: f32[u1]
    %a = nonzero(%x)
    %b: i64[u0, 1] = nonzero(%x)
    %c = nonzero(%x)
    return %a, %b, %c""")
    assert [str(node.result.type.shape[0]) for node in graph] == ["u2", "u0", "u3"]  # type: ignore[union-attr]
    verify(graph)


def test_regions_name_their_sizes_apart_from_the_graph() -> None:
    graph = parse("""
    input %p: bool[]
    input %x: f32[4]
    %y = higher_order.cond(%p, %x) [
      graph then {
        input %x: f32[4]
        %n = nonzero(%x)
        return %n
      }
      graph other {
        input %x: f32[4]
        %n = nonzero(%x)
        return %n
      }
    ]
    %z = nonzero(%x)
    return %y, %z""")
    sizes = [str(node.results[0].type.shape[0]) for node in walk(graph)]  # type: ignore[union-attr]
    assert len(set(sizes)) == 4
    verify(graph)
    assert difference(graph, parse(print_graph(graph))) is None


HEADER = "input %x: f32[4, 6]\n"
MALFORMED = [
    ("%y = relu(%z)", "%z is not defined", "%z"),
    ("%y = reluu(%x)", "Unknown operator 'reluu'. Did you mean", "reluu"),
    ("%y = relu(%x", "expected ','", ""),
    ("%y = relu(%x) {a=1}", "Unknown attribute 'a'. It was given to aten.relu.", "relu"),
    ("%y = softmax.int(%x)", "aten.softmax.int needs argument 'dim'", "softmax"),
    ("%y = relu(%x, %x)", "aten.relu takes 1 operands, got 2", "relu"),
    ("%y = relu()", "aten.relu needs operand 'self'", "relu"),
    ("%y = relu(none)", "aten.relu needs operand 'self'", "relu"),
    ("%y, %z = relu(%x)", "aten.relu has 1 results, 2 are named", "relu"),
    ("%x = relu(%x)", "%x is defined twice", "%x"),
    ("%y: f33[2] = relu(%x)", "expected a type such as f32[2, 3]", "f33"),
    ("%y: f32[2 = relu(%x)", "expected ','", "="),
    ("%y: f32[2 2] = relu(%x)", "not a number or dim", "2 2"),
    ("%y: f32[2*] = relu(%x)", "not a number or dim", "2*"),
    ("%y = view(%x) {size=(5, 5)}", "aten.view cannot take (f32[4, 6]) with size=(5, 5)", "view"),
    ("%y = view(%x) {size=(4, 6}", "expected ','", "}"),
    ("%y = view(%x) {size=(4, 6), size=(6, 4)}", "attribute 'size' is given twice", "size=(6"),
    ("%y = relu(%x) extra", "expected the end of the line", "extra"),
    ("%y = relu(%x) @ file", "expected the end of the line", "file"),
    ("symbol N [3, 1]", "no multiple of 1 lies in [3, 1]", "N"),
    ("%y: f32[N] = relu(%x)\nsymbol N [0, 4]", "is declared twice, or after its first use", "N [0"),
    ("constant %c: f32[N]", "a constant needs a tensor type with static dims", "%c"),
    ("constant %c: f32[2] = (1.0, true, 3.0)", "these values are no f32[2]", "(1.0"),
    ("constant %c: i64[1] = (0.5,", "expected", ""),
    ("%y = relu(%x) ?", "unexpected character '?'", "?"),
    ('%"y\\x" = relu(%x)', "malformed string", '%"y'),
    ("update x = %x", "expected a string", "x = "),
    ("return %x }", "expected the end of the text", "}"),
]


@pytest.mark.parametrize(("line", "message", "token"), MALFORMED, ids=[m[0] for m in MALFORMED])
def test_malformed_text_is_underlined(line: str, message: str, token: str) -> None:
    text = HEADER + line
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert message in str(caught.value)
    if token:
        shown, caret = str(caught.value).splitlines()[-2:]
        assert shown[caret.index("^") :].startswith(token), str(caught.value)


def test_error_names_the_line() -> None:
    with pytest.raises(ParseError) as caught:
        parse("input %x: f32[2]\n%y = relu(%x)\n%z = relu(%q)")
    assert str(caught.value).splitlines() == [
        "%q is not defined, found '%q'",
        "  line 3: %z = relu(%q)",
        "                    ^",
    ]


def test_print_node_is_one_line() -> None:
    graph = parse("""
    input %p: bool[]
    %y = higher_order.cond(%p) [
      graph then {
        %n = zeros() {size=(2,)}
        return %n
      }
      graph other {
        %n = ones() {size=(2,)}
        return %n
      }
    ]
    return %y""")
    assert print_node(graph.nodes[0]) == "%y: f32[2] = higher_order.cond(%p)"


def test_two_runs_print_the_same() -> None:
    text = "input %x: f32[4]\n%a = nonzero(%x)\n%b = nonzero(%x)\nreturn %a, %b"
    assert print_graph(parse(text)) == print_graph(parse(text))


def test_value_repr_names_and_types() -> None:
    assert repr(Value(TensorType(DType.F32, (2,)), "x")) == "%x: f32[2]"
