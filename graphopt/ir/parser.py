"""Parsing the text form. The inverse of `graphopt.ir.printer`, with some leave to abbreviate:

the `graph NAME { }` frame may be missing, an operator may be named without its dialect and overload if `resolve`
allows it, result types may be missing (they are inferred), and symbols need no declaration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from graphopt.errors import GraphOptError, ParseError
from graphopt.ir.attributes import Attributes
from graphopt.ir.bind import complete
from graphopt.ir.dims import evaluate
from graphopt.ir.graph import Graph
from graphopt.ir.infer import infer_types
from graphopt.ir.lexer import Lexer, Token
from graphopt.ir.memory import collection_paused
from graphopt.ir.op import SEGMENTS, Op, ParamKind
from graphopt.ir.printer import content_hash
from graphopt.ir.text_values import ValueParser, unquote_value
from graphopt.ir.types import TensorType, Type
from graphopt.ir.value import Constant, ConstantKind, Node, Value

Resolve = Callable[[str], Op]

_KINDS = {k.value: k for k in ConstantKind}


def parse_graph(text: str, resolve: Resolve, tensors: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Parse a graph.

    resolve: operator by name. tensors: data of constants that are not inline, by name. A constant without
    values, hash or tensor gets small pseudo-random values that its name alone decides.

    Raises:
        ParseError: malformed text; the message underlines the token.
    """
    with collection_paused():
        parser = _Parser(Lexer(text), resolve, tensors or {})
        graph = parser.graph()
        parser.lexer.skip_newlines()
    if parser.lexer.peek.kind != "end":
        raise parser.lexer.error("expected the end of the text")
    return graph


class _Parser(ValueParser):
    """Statements: inputs, constants, nodes with regions, return and update."""

    def __init__(self, lexer: Lexer, resolve: Resolve, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(lexer)
        self.resolve = resolve
        self.tensors = tensors
        self.names = set(re.findall(r"\bu\d+\b", lexer.text))  # what nodes that introduce symbols must not use
        self._ops: dict[str, Op] = {}
        self._attributes: dict[tuple[Op, str], Attributes] = {}

    def graph(self) -> Graph:
        self.lexer.skip_newlines()
        graph = Graph()
        graph.share_symbol_names(self.names)
        framed = self.lexer.accept("graph")
        if framed:
            graph.name = self.word_or_string()
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
        if token.kind == "value":
            self.node(graph, scope)
        elif token.text == "symbol":
            self.symbol()
        elif token.text == "input":
            self.lexer.next()
            name_token, name, type_ = self.typed_name()
            self.define(scope, name_token, name, graph.add_input(name, type_))
        elif token.kind == "word" and token.text in _KINDS:
            self.constant(graph, scope)
        else:
            self.node(graph, scope)

    def constant(self, graph: Graph, scope: dict[str, Value]) -> None:
        kind = _KINDS[self.lexer.next().text]
        token = self.lexer.expect_kind("value")
        printed = name = unquote_value(token, self.lexer)
        if self.lexer.accept("as"):
            name = self.lexer.string()
        self.lexer.expect(":")
        type_ = self.type()
        if not isinstance(type_, TensorType) or not all(isinstance(d, int) for d in type_.shape):
            raise self.lexer.error("a constant needs a tensor type with static dims", token)
        names = self.constant_names((name,) if kind is not ConstantKind.CONSTANT else ())
        requires_grad = self.lexer.accept("requires_grad")
        persistent = not self.lexer.accept("not_persistent")
        tensor = self.tensor(token, printed, type_)
        constant = Constant(tensor, kind, names, requires_grad, persistent, tensor._version)
        self.define(scope, token, printed, graph.add_constant(name, type_, constant))

    def constant_names(self, default: tuple[str, ...]) -> tuple[str, ...]:
        if not self.lexer.accept("names"):
            return default
        if self.lexer.accept("none"):
            return ()
        found = [self.lexer.string()]
        while self.lexer.accept(","):
            found.append(self.lexer.string())
        return tuple(found)

    def tensor(self, token: Token, name: str, type_: TensorType) -> torch.Tensor:
        shape = _static_shape(type_)
        if self.lexer.accept("="):
            start = self.lexer.peek
            values = _lists(self.attribute())
            try:
                return torch.tensor(values, dtype=type_.dtype.storage).reshape(shape)
            except (TypeError, ValueError, RuntimeError) as error:
                raise self.lexer.error(f"these values are no {type_!r} ({error})", start) from None
        given = self.tensors.get(name)
        if self.lexer.accept("sha256"):
            digest_token = self.lexer.peek
            digest = self.lexer.string()
            if given is None:
                raise self.lexer.error(f"the data of constant {name!r} was not given", token)
            if content_hash(given) != digest:
                raise self.lexer.error(f"the data of constant {name!r} has another hash", digest_token)
        if given is not None and (tuple(given.shape) != shape or given.dtype != type_.dtype.storage):
            raise self.lexer.error(f"the data given for {name!r} is {given.dtype} {tuple(given.shape)}", token)
        return _sample_tensor(name, type_) if given is None else given

    def node(self, graph: Graph, scope: dict[str, Value]) -> None:
        results: list[tuple[Token, str, Type | None]] = []
        if self.lexer.peek.kind == "value":
            results.append(self.result())
            while self.lexer.accept(","):
                results.append(self.result())
            self.lexer.expect("=")
        op_token = self.lexer.peek
        op = self.lookup(op_token, self.word_or_string())
        self.lexer.expect("(")
        operands = self.operands(scope)
        attributes = self.complete_attributes(op, op_token)
        location = self.location()
        regions = self.regions()
        types = [t for _, _, t in results]
        try:
            operands = _pad(op, operands, attributes)
            if (not results and op.infer is not None) or None in types:
                inferred = infer_types(op, operands, attributes, regions)
                if results and len(inferred) != len(results):
                    raise ParseError(f"{op.name} has {len(inferred)} results, {len(results)} are named")
                types = [t or i for t, i in zip(types, inferred)] if results else list(inferred)
        except ParseError as error:
            raise self.lexer.error(str(error), op_token) from None
        except GraphOptError as error:
            raise ParseError(str(error), self.lexer.text, op_token.start) from error
        node = Node(op, operands, attributes, types, regions=regions, location=location)  # type: ignore[arg-type]
        graph.append(node)
        for (token, name, _), value in zip(results, node.results):
            value.name = "" if name.isdigit() else name
            self.define(scope, token, name, value)

    def complete_attributes(self, op: Op, op_token: Token) -> Attributes:
        """The attributes between braces, completed with defaults."""
        if not self.lexer.at("{"):
            return self._completed(op, "", {}, op_token)
        tokens, start = self.lexer.tokens, self.lexer.position
        end = start
        while tokens[end].text != "}" and tokens[end].kind not in ("newline", "end"):
            end += 1
        text = self.lexer.text[tokens[start].start : tokens[end].end]
        known = self._attributes.get((op, text))
        if known is not None:
            self.lexer.seek(end + 1)
            return known
        self.lexer.next()
        return self._completed(op, text, self.attributes(), op_token)

    def _completed(self, op: Op, text: str, given: dict[str, Any], op_token: Token) -> Attributes:
        known = self._attributes.get((op, text))
        if known is None:
            try:
                known = complete(op, given)
            except GraphOptError as error:
                raise ParseError(str(error), self.lexer.text, op_token.start) from error
            self._attributes[(op, text)] = known
        return known

    def result(self) -> tuple[Token, str, Type | None]:
        token = self.lexer.expect_kind("value")
        return token, unquote_value(token, self.lexer), self.type() if self.lexer.accept(":") else None

    def operands(self, scope: dict[str, Value]) -> list[Value | None]:
        found: list[Value | None] = []
        while not self.lexer.accept(")"):
            if found:
                self.lexer.expect(",")
            found.append(None if self.lexer.accept("none") else self.value(scope))
        return found

    def regions(self) -> tuple[Graph, ...]:
        if not self.lexer.accept("["):
            return ()
        found = []
        self.lexer.skip_newlines()
        while not self.lexer.accept("]"):
            if not self.lexer.at("graph"):
                raise self.lexer.error("expected 'graph' or ']'")
            found.append(self.graph())
            self.lexer.skip_newlines()
        return tuple(found)

    def typed_name(self) -> tuple[Token, str, Type]:
        token = self.lexer.expect_kind("value")
        self.lexer.expect(":")
        return token, unquote_value(token, self.lexer), self.type()

    def values(self, scope: dict[str, Value]) -> list[Value]:
        found: list[Value] = []
        while self.lexer.peek.kind == "value":
            found.append(self.value(scope))
            if not self.lexer.accept(","):
                break
        return found

    def value(self, scope: dict[str, Value]) -> Value:
        token = self.lexer.expect_kind("value")
        name = unquote_value(token, self.lexer)
        found = scope.get(name)
        if found is None:
            raise self.lexer.error(f"%{name} is not defined", token)
        return found

    def define(self, scope: dict[str, Value], token: Token, name: str, value: Value) -> None:
        if name in scope:
            raise self.lexer.error(f"%{name} is defined twice", token)
        scope[name] = value

    def lookup(self, token: Token, name: str) -> Op:
        op = self._ops.get(name)
        if op is None:
            try:
                op = self._ops[name] = self.resolve(name)
            except GraphOptError as error:
                raise ParseError(str(error), self.lexer.text, token.start) from None
        return op


def _pad(op: Op, operands: list[Value | None], attributes: Mapping[str, Any]) -> list[Value | None]:
    """Trailing optional operands may be left out in text."""
    if SEGMENTS in attributes:
        return operands
    kinds = [p.kind for p in op.operand_params]
    if ParamKind.VARIADIC in kinds:
        return operands
    if len(operands) > len(kinds):
        raise ParseError(f"{op.name} takes {len(kinds)} operands, got {len(operands)}")
    padded = operands + [None] * (len(kinds) - len(operands))
    for param, operand in zip(op.operand_params, padded):
        if operand is None and param.kind is ParamKind.OPERAND:
            raise ParseError(f"{op.name} needs operand {param.name!r}")
    return padded


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


def _static_shape(type_: TensorType) -> tuple[int, ...]:
    """The shape of a type whose dims are numbers."""
    return tuple([evaluate(dim, {}) for dim in type_.shape])


def _sample_tensor(name: str, type_: TensorType) -> torch.Tensor:
    shape = _static_shape(type_)
    generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)
    if type_.dtype.is_floating:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(type_.dtype.storage)
    return torch.randint(0, 2, shape, generator=generator).to(type_.dtype.storage)
