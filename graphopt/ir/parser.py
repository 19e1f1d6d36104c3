"""Parsing the text form. The inverse of `graphopt.ir.printer`, with some leave to abbreviate:

the `graph NAME { }` frame may be missing, an operator may be named without its dialect and overload if `resolve`
allows it, result types may be missing (they are inferred), and symbols need no declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from graphopt.errors import GraphOptError, ParseError
from graphopt.ir.bind import complete
from graphopt.ir.dim_text import DimParseError, parse_dim
from graphopt.ir.dims import Dim, Symbol, symbol, symbols_of
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph
from graphopt.ir.infer import infer_types
from graphopt.ir.lexer import Lexer, Token
from graphopt.ir.location import UNKNOWN, Location
from graphopt.ir.op import SEGMENTS, Op
from graphopt.ir.printer import content_hash
from graphopt.ir.types import NoneType, OptionalType, ScalarKind, ScalarType, SequenceType, TensorType, Type
from graphopt.ir.value import Constant, ConstantKind, Node, Value

Resolve = Callable[[str], Op]

_DTYPES = {d.value: d for d in DType}
_KINDS = {k.value: k for k in ConstantKind}
_SCALARS = {k.value: k for k in ScalarKind}


def parse_graph(text: str, resolve: Resolve, tensors: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Parse a graph.

    resolve: operator by name. tensors: data of constants that are not inline, by name. A constant without
    values, hash or tensor gets small pseudo-random values that its name alone decides.

    Raises:
        ParseError: malformed text; the message underlines the token.
    """
    parser = _Parser(Lexer(text), resolve, tensors or {})
    graph = parser.graph()
    parser.lexer.skip_newlines()
    if parser.lexer.peek.kind != "end":
        raise parser.lexer.error("expected the end of the text")
    return graph


class _Parser:
    def __init__(self, lexer: Lexer, resolve: Resolve, tensors: Mapping[str, torch.Tensor]) -> None:
        self.lexer = lexer
        self.resolve = resolve
        self.tensors = tensors
        self.symbols: dict[str, Symbol] = {}

    def graph(self) -> Graph:
        self.lexer.skip_newlines()
        graph = Graph()
        framed = self.lexer.accept("graph")
        if framed:
            graph.name = self.lexer.expect_kind("word").text
            self.lexer.expect("{")
        self.lexer.skip_newlines()
        scope: dict[str, Value] = {}
        updates: dict[str, Value] = {}
        outputs: list[Value] = []
        while not self.lexer.at("}") and self.lexer.peek.kind != "end":
            if self.lexer.accept("return"):
                outputs = self.values(scope)
            elif self.lexer.accept("update"):
                target = self.lexer.string()
                self.lexer.expect("=")
                updates[target] = self.value(scope)
            else:
                self.statement(graph, scope)
            self.lexer.end_statement()
        if framed:
            self.lexer.expect("}")
        graph.set_outputs(outputs, updates)
        return graph

    def statement(self, graph: Graph, scope: dict[str, Value]) -> None:
        token = self.lexer.peek
        if token.text == "symbol":
            self.symbol()
        elif token.text == "input":
            self.lexer.next()
            name_token, name, type_ = self.typed_name()
            self.define(scope, name_token, graph.add_input(name, type_))
        elif token.kind == "word" and token.text in _KINDS:
            self.constant(graph, scope)
        else:
            self.node(graph, scope)

    def symbol(self) -> None:
        self.lexer.expect("symbol")
        name = self.lexer.expect_kind("word").text
        low: int = 0
        high: int | None = None
        multiple = 1
        if self.lexer.accept("["):
            low = self.lexer.integer()
            self.lexer.expect(",")
            high = None if self.lexer.accept("inf") else self.lexer.integer()
            self.lexer.expect("]")
        if self.lexer.accept("multiple_of"):
            multiple = self.lexer.integer()
        self.symbols[name] = _symbol_of(symbol(name, low, high, multiple))

    def constant(self, graph: Graph, scope: dict[str, Value]) -> None:
        kind = _KINDS[self.lexer.next().text]
        token, name, type_ = self.typed_name()
        if not isinstance(type_, TensorType) or not all(isinstance(d, int) for d in type_.shape):
            raise self.lexer.error("a constant needs a tensor type with static dims", token)
        names: tuple[str, ...] = (name,) if kind is not ConstantKind.CONSTANT else ()
        if self.lexer.accept("names"):
            found = [self.lexer.string()]
            while self.lexer.accept(","):
                found.append(self.lexer.string())
            names = tuple(found)
        requires_grad = self.lexer.accept("requires_grad")
        persistent = not self.lexer.accept("not_persistent")
        tensor = self.tensor(token, name, type_)
        constant = Constant(tensor, kind, names, requires_grad, persistent, tensor._version)
        self.define(scope, token, graph.add_constant(name, type_, constant))

    def tensor(self, token: Token, name: str, type_: TensorType) -> torch.Tensor:
        if self.lexer.accept("="):
            values = _lists(self.attribute())
            return torch.tensor(values, dtype=type_.dtype.torch).reshape(tuple(map(int, type_.shape)))
        given = self.tensors.get(name)
        if self.lexer.accept("sha256"):
            digest_token = self.lexer.peek
            digest = self.lexer.string()
            if given is None:
                raise self.lexer.error(f"the data of constant {name!r} was not given", token)
            if content_hash(given) != digest:
                raise self.lexer.error(f"the data of constant {name!r} has another hash", digest_token)
        return _sample_tensor(name, type_) if given is None else given

    def node(self, graph: Graph, scope: dict[str, Value]) -> None:
        results: list[tuple[Token, str, Type | None]] = []
        if self.lexer.peek.kind == "value":
            results.append(self.result())
            while self.lexer.accept(","):
                results.append(self.result())
            self.lexer.expect("=")
        op_token = self.lexer.expect_kind("word")
        op = self.lookup(op_token)
        self.lexer.expect("(")
        operands = self.operands(scope)
        attributes = self.attributes() if self.lexer.accept("{") else {}
        location = self.location()
        regions = self.regions()
        try:
            operands = _pad(op, operands, attributes)
            full = complete(op, attributes)
            types = [t for _, _, t in results]
            if any(t is None for t in types) or not results:
                inferred = infer_types(op, operands, full, regions)
                if results and len(inferred) != len(results):
                    raise ParseError(f"{op.name} has {len(inferred)} results, {len(results)} are named")
                types = [t or i for t, i in zip(types, inferred)] if results else list(inferred)
        except ParseError as error:
            raise self.lexer.error(str(error), op_token) from None
        except GraphOptError as error:
            raise ParseError(str(error), self.lexer.text, op_token.start) from error
        node = Node(op, operands, full, [t for t in types if t is not None], regions=regions, location=location)
        graph.append(node)
        for (token, name, _), value in zip(results, node.results):
            value.name = "" if name.isdigit() else name
            self.define(scope, token, value, name)

    def result(self) -> tuple[Token, str, Type | None]:
        token = self.lexer.expect_kind("value")
        return token, _unquote(token), self.type() if self.lexer.accept(":") else None

    def operands(self, scope: dict[str, Value]) -> list[Value | None]:
        found: list[Value | None] = []
        while not self.lexer.accept(")"):
            if found:
                self.lexer.expect(",")
            found.append(None if self.lexer.accept("none") else self.value(scope))
        return found

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.lexer.accept("}"):
            if found:
                self.lexer.expect(",")
            name = self.lexer.expect_kind("word").text
            self.lexer.expect("=")
            found[name] = self.attribute()
        return found

    def attribute(self) -> Any:
        token = self.lexer.peek
        if token.kind == "string":
            return self.lexer.string()
        if self.lexer.accept("none"):
            return None
        if token.kind == "word" and token.text in ("true", "false"):
            return self.lexer.next().text == "true"
        if token.kind == "word" and token.text in _DTYPES:
            return _DTYPES[self.lexer.next().text]
        if self.lexer.accept("complex"):
            real, imaginary = self.attribute()
            return complex(real, imaginary)
        if token.text in ("(", "[") and self._is_tuple():
            return self.tuple()
        return self.number_or_dim()

    def tuple(self) -> Any:
        close = ")" if self.lexer.next().text == "(" else "]"
        items = []
        while not self.lexer.accept(close):
            if items:
                self.lexer.expect(",")
                if self.lexer.accept(close):
                    break
            items.append(self.attribute())
        return tuple(items)

    def _is_tuple(self) -> bool:
        """A parenthesis opens a tuple if a comma stands at its own depth or it is empty; else it groups a dim."""
        if self.lexer.peek.text == "[":
            return True
        depth = 0
        for token in self.lexer.tokens[self.lexer.position :]:
            if token.kind in ("string", "value"):
                continue
            if token.text in ("(", "["):
                depth += 1
            elif token.text in (")", "]"):
                depth -= 1
                if depth == 0:
                    return self.lexer.tokens[self.lexer.position + 1] is token
            elif token.text == "," and depth == 1:
                return True
        return False

    def number_or_dim(self) -> Any:
        start = self.lexer.position
        negative = self.lexer.accept("-")
        token = self.lexer.peek
        if (token.kind == "number" and not token.text.isdigit()) or token.text in ("inf", "nan"):
            self.lexer.next()
            return -float(token.text) if negative else float(token.text)
        self.lexer.position = start
        return self.dim()

    def dim(self) -> Dim:
        """Consume the tokens of a dim expression up to `,` or a closing bracket at depth zero."""
        first, depth = self.lexer.peek, 0
        last = first
        while True:
            token = self.lexer.peek
            if token.kind in ("newline", "end", "string", "value", "arrow"):
                break
            if depth == 0 and token.text in (",", ")", "]", "}", "=", ">"):
                break
            depth += (token.text in ("(", "[")) - (token.text in (")", "]"))
            last = self.lexer.next()
        text = self.lexer.text[first.start : last.end]
        for word in _words(text):
            self.symbols.setdefault(word, _symbol_of(symbol(word)))
        try:
            return parse_dim(text, self.symbols)
        except DimParseError as error:
            raise self.lexer.error(f"not a number or dim ({error})", first) from None

    def type(self) -> Type:
        token = self.lexer.expect_kind("word")
        if token.text in _DTYPES and self.lexer.at("["):
            return self.tensor_type(_DTYPES[token.text])
        if token.text in _SCALARS:
            value: Dim | None = None
            if self.lexer.accept("("):
                value = self.dim()
                self.lexer.expect(")")
            return ScalarType(_SCALARS[token.text], value)
        if token.text in ("seq", "optional"):
            self.lexer.expect("<")
            element = self.type()
            self.lexer.expect(">")
            return SequenceType(element) if token.text == "seq" else OptionalType(element)
        if token.text == "none":
            return NoneType()
        raise self.lexer.error("expected a type such as f32[2, 3]", token)

    def tensor_type(self, dtype: DType) -> TensorType:
        self.lexer.expect("[")
        shape: list[Dim] = []
        while not self.lexer.accept("]"):
            if shape:
                self.lexer.expect(",")
            shape.append(self.dim())
        device = "cpu"
        if self.lexer.accept("@"):
            device = self.lexer.expect_kind("word").text
            if self.lexer.accept(":"):
                device += f":{self.lexer.integer()}"
        return TensorType(dtype, tuple(shape), device)

    def location(self) -> Location:
        if not self.lexer.accept("@"):
            return UNKNOWN
        file = self.lexer.string()
        self.lexer.expect(":")
        line = self.lexer.integer()
        scope = self.lexer.string()
        rules = []
        while self.lexer.accept("<-"):
            rules.append(self.lexer.string())
        return Location(file, line, scope, tuple(rules))

    def regions(self) -> tuple[Graph, ...]:
        if not self.lexer.accept("["):
            return ()
        found = []
        self.lexer.skip_newlines()
        while not self.lexer.accept("]"):
            found.append(self.graph())
            self.lexer.skip_newlines()
        return tuple(found)

    def typed_name(self) -> tuple[Token, str, Type]:
        token = self.lexer.expect_kind("value")
        self.lexer.expect(":")
        return token, _unquote(token), self.type()

    def values(self, scope: dict[str, Value]) -> list[Value]:
        found: list[Value] = []
        while self.lexer.peek.kind == "value":
            found.append(self.value(scope))
            if not self.lexer.accept(","):
                break
        return found

    def value(self, scope: dict[str, Value]) -> Value:
        token = self.lexer.expect_kind("value")
        name = _unquote(token)
        if name not in scope:
            raise self.lexer.error(f"%{name} is not defined", token)
        return scope[name]

    def define(self, scope: dict[str, Value], token: Token, value: Value, name: str | None = None) -> None:
        key = value.name if name is None else name
        if key in scope:
            raise self.lexer.error(f"%{key} is defined twice", token)
        scope[key] = value

    def lookup(self, token: Token) -> Op:
        try:
            return self.resolve(token.text)
        except GraphOptError as error:
            raise ParseError(str(error), self.lexer.text, token.start) from None


def _pad(op: Op, operands: list[Value | None], attributes: Mapping[str, Any]) -> list[Value | None]:
    """Trailing optional operands may be left out in text."""
    if SEGMENTS in attributes:
        return operands
    expected = len(op.operand_params)
    variadic = any(p.kind.name == "VARIADIC" for p in op.operand_params)
    if len(operands) > expected and not variadic:
        raise ParseError(f"{op.name} takes {expected} operands, got {len(operands)}")
    missing = [p for p in op.operand_params[len(operands) :] if p.kind.name == "OPERAND"]
    if missing and not variadic:
        raise ParseError(f"{op.name} needs operand {missing[0].name!r}")
    return operands if variadic else operands + [None] * (expected - len(operands))


def _unquote(token: Token) -> str:
    text = token.text[1:]
    if text.startswith('"'):
        import json

        unquoted: str = json.loads(text)
        return unquoted
    return text


def _words(text: str) -> list[str]:
    import re

    return [w for w in re.findall(r"[A-Za-z_]\w*", text) if w not in ("min", "max")]


def _symbol_of(expression: Any) -> Symbol:
    return symbols_of(expression)[0]


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


def _sample_tensor(name: str, type_: TensorType) -> torch.Tensor:
    shape = tuple(map(int, type_.shape))
    generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)
    if type_.dtype.is_floating:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(type_.dtype.torch)
    return torch.randint(0, 2, shape, generator=generator).to(type_.dtype.torch)
