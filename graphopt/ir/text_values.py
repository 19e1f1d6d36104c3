"""Parsing what stands inside statements: types, dims, attributes, locations.

Graphs repeat themselves, so types, locations and attribute lists are remembered by their text.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from typing import Any, ClassVar

from graphopt.ir.dim_text import DimParseError, parse_dim
from graphopt.ir.dims import Dim, Symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.lexer import Lexer, Token
from graphopt.ir.location import UNKNOWN, Location
from graphopt.ir.types import (
    NoneType,
    OptionalType,
    ScalarKind,
    ScalarType,
    SequenceType,
    TensorType,
    Type,
    UnrankedType,
)

_DTYPES = {d.value: d for d in DType}
_SCALARS = {k.value: k for k in ScalarKind}
_STOPS = frozenset([",", ")", "]", "}", "=", ">"])


class ValueParser:
    """Parses types, dims, attributes and locations at the lexer's cursor. Symbols need no declaration."""

    def __init__(self, lexer: Lexer) -> None:
        self.lexer = lexer
        self.symbols: dict[str, Symbol] = {}
        self._types: dict[str, TensorType] = {}
        self._locations: dict[str, Location] = {}

    # Symbols

    def symbol(self) -> None:
        """A declaration: `symbol NAME [MIN, MAX] multiple_of N`."""
        self.lexer.expect("symbol")
        token = self.lexer.peek
        name = self.lexer.string() if token.kind == "string" else self.lexer.expect_kind("word").text
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
        if name in self.symbols:
            raise self.lexer.error(f"symbol {name!r} is declared twice, or after its first use", token)
        try:
            self.symbols[name] = Symbol(name, low, high, multiple)
        except ValueError as error:
            raise self.lexer.error(str(error), token) from None

    # Types

    def type(self) -> Type:
        """A type such as `f32[N, 3]@cuda:0`, `f32[*]`, `int(N)`, `seq<f32[2]>` or `none`."""
        token = self.lexer.expect_kind("word")
        if token.text in _DTYPES and self.lexer.at("["):
            return self._tensor_type(token)
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

    def _tensor_type(self, dtype: Token) -> TensorType | UnrankedType:
        tokens, end = self.lexer.tokens, self.lexer.position
        if tokens[end + 1].text == "*":
            self.lexer.seek(end + 2)
            self.lexer.expect("]")
            return UnrankedType(_DTYPES[dtype.text])
        while tokens[end].text != "]" and tokens[end].kind not in ("newline", "end"):
            end += 1
        text = self.lexer.text[dtype.start : tokens[end].end]
        known = self._types.get(text)
        if known is None:
            known = TensorType(_DTYPES[dtype.text], self._shape())
            self._types[text] = known
        else:
            self.lexer.seek(end + 1)
        return TensorType(known.dtype, known.shape, self._device()) if self.lexer.accept("@") else known

    def _shape(self) -> tuple[Dim, ...]:
        self.lexer.expect("[")
        shape: list[Dim] = []
        while not self.lexer.accept("]"):
            if shape:
                self.lexer.expect(",")
            shape.append(self.dim())
        return tuple(shape)

    def _device(self) -> str:
        device = self.lexer.expect_kind("word").text
        return f"{device}:{self.lexer.integer()}" if self.lexer.accept(":") else device

    # Dims

    def dim(self) -> Dim:
        """A dim expression, up to `,` or a closing bracket at depth zero."""
        first, depth = self.lexer.peek, 0
        last = first
        while True:
            token = self.lexer.peek
            if token.kind in ("newline", "end", "value", "arrow"):
                break
            if token.kind == "punct":
                if depth == 0 and token.text in _STOPS:
                    break
                depth += (token.text in ("(", "[")) - (token.text in (")", "]"))
            elif token.kind == "word" or token.kind == "string":
                self._introduce(token)
            last = self.lexer.next()
        if first is last and first.kind == "number" and first.text.isdigit():
            return int(first.text)
        try:
            return parse_dim(self.lexer.text[first.start : last.end], self.symbols)
        except DimParseError as error:
            reason = str(error).partition(" at column ")[0]
            raise self.lexer.error(f"not a number or dim ({reason})", first) from None

    def _introduce(self, token: Token) -> None:
        """A name without a declaration is a symbol without a range."""
        following = self.lexer.tokens[self.lexer.position + 1]
        if token.kind == "word" and token.text in ("min", "max") and following.text == "(":
            return
        name = self.lexer.unquoted(token, token.text) if token.kind == "string" else token.text
        if name and name not in self.symbols:
            self.symbols[name] = Symbol(name)

    # Attributes

    def attributes(self) -> dict[str, Any]:
        """Attributes up to the closing brace; the opening one is consumed."""
        found: dict[str, Any] = {}
        while not self.lexer.accept("}"):
            if found:
                self.lexer.expect(",")
            token = self.lexer.peek
            name = self.word_or_string()
            if name in found:
                raise self.lexer.error(f"attribute {name!r} is given twice", token)
            self.lexer.expect("=")
            found[name] = self.attribute()
        return found

    def word_or_string(self) -> str:
        """A name: a word, or any text in quotes."""
        return self.lexer.string() if self.lexer.peek.kind == "string" else self.lexer.expect_kind("word").text

    def attribute(self) -> Any:
        """One attribute: none, true, a number, a dim, a string, bytes, a dtype or a tuple of such."""
        token = self.lexer.peek
        if token.kind == "string":
            return self.lexer.string()
        if token.kind == "word":
            return self._word_attribute(token)
        if token.text in ("(", "[") and self._is_tuple():
            return self._tuple()
        return self._number_or_dim()

    def _word_attribute(self, token: Token) -> Any:
        if token.text in ("none", "true", "false"):
            self.lexer.next()
            return None if token.text == "none" else token.text == "true"
        if token.text in _DTYPES:
            self.lexer.next()
            return _DTYPES[token.text]
        if token.text in self._WRAPPED and self.lexer.tokens[self.lexer.position + 1].text == "(":
            self.lexer.next()
            self.lexer.expect("(")
            value = self._WRAPPED[token.text](self)
            self.lexer.expect(")")
            return value
        return self._number_or_dim()

    def _complex(self) -> complex:
        real = self._number_or_dim()
        self.lexer.expect(",")
        return complex(real, self._number_or_dim())

    def _bytes(self) -> bytes:
        token = self.lexer.peek
        try:
            return b64decode(self.lexer.string(), validate=True)
        except ValueError:
            raise self.lexer.error("expected base64", token) from None

    _WRAPPED: ClassVar[dict[str, Callable[[ValueParser], Any]]] = {"complex": _complex, "dim": dim, "bytes": _bytes}

    def _tuple(self) -> Any:
        close = ")" if self.lexer.next().text == "(" else "]"
        items: list[Any] = []
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
        position = self.lexer.position
        for index in range(position, len(self.lexer.tokens)):
            token = self.lexer.tokens[index]
            if token.kind != "punct":
                continue
            if token.text in ("(", "["):
                depth += 1
            elif token.text in (")", "]"):
                depth -= 1
                if depth == 0:
                    return index == position + 1
            elif token.text == "," and depth == 1:
                return True
        return False

    def _number_or_dim(self) -> Any:
        start = self.lexer.position
        negative = self.lexer.accept("-")
        token = self.lexer.peek
        if (token.kind == "number" and not token.text.isdigit()) or token.text in ("inf", "nan"):
            self.lexer.next()
            return -float(token.text) if negative else float(token.text)
        self.lexer.seek(start)
        return self.dim()

    # Locations

    def location(self) -> Location:
        """`@ "file":line "scope" <- "rule"`, or nothing."""
        if not self.lexer.at("@"):
            return UNKNOWN
        tokens, start = self.lexer.tokens, self.lexer.position
        end = start
        while tokens[end].kind not in ("newline", "end") and tokens[end].text not in ("[", "}"):
            end += 1
        text = self.lexer.text[tokens[start].start : tokens[end - 1].end]
        known = self._locations.get(text)
        if known is not None:
            self.lexer.seek(end)
            return known
        self.lexer.next()
        file, line, scope = "", 0, self._optional_string()
        if self.lexer.accept(":"):
            file, line, scope = scope, self.lexer.integer(), self._optional_string()
        rules = []
        while self.lexer.accept("<-"):
            rules.append(self.lexer.string())
        self._locations[text] = Location(file, line, scope, tuple(rules))
        return self._locations[text]

    def _optional_string(self) -> str:
        return self.lexer.string() if self.lexer.peek.kind == "string" else ""


def unquote_value(token: Token, lexer: Lexer) -> str:
    """The name in a value token: `%x` or `%"any text"`."""
    text = token.text[1:]
    return lexer.unquoted(token, text) if text.startswith('"') else text
