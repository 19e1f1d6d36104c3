"""The text form of pipelines: `fold-constants,prune-channels{ratio=0.5},fixpoint(cse,dce)`.

    pipeline = pass ("," pass)*
    pass     = name ["{" option ("," option)* "}"] ["(" pipeline ")"]
    option   = name "=" value
    value    = number | word | "quoted" | true | false | none | "(" value, … ")" | "{" name = value, … "}"

A dash and an underscore are the same in an option's name. Printing a parsed pipeline gives its canonical text.
"""

from __future__ import annotations

import enum
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import GraphOptError, ParseError, UnknownNameError, underline
from graphopt.passmanager.base import Pass
from graphopt.passmanager.options import REQUIRED, check_names, convert, member_text, options_of
from graphopt.passmanager.pipeline import Pipeline
from graphopt.passmanager.registry import make, registry

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.-])|[-+]inf\b)
      | (?P<word>[A-Za-z_][\w.]*(?:-[\w.]+)*)
      | (?P<punct>[,(){}\[\]=])""",
    re.VERBOSE,
)
_WORD = re.compile(r"[A-Za-z_][\w.]*(?:-[\w.]+)*")
_WORDS = {"true": True, "false": False, "none": None, "inf": math.inf, "nan": math.nan}


@dataclass(frozen=True)
class Token:
    """A token and the position where it starts."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True)
class Given:
    """An option as written: its value, and where its name and its value start."""

    name: str
    value: Any
    start: int
    value_start: int


@dataclass
class Item:
    """A pass as written."""

    name: str
    start: int
    options: list[Given] = field(default_factory=list)
    children: list[Item] | None = None
    end: int = 0


def parse_pipeline(text: str) -> Pipeline:
    """Parse the text of a pipeline.

    Raises:
        ParseError: malformed text, or a value that an option does not take; the token is underlined.
        UnknownNameError: an unknown pass or option; the message suggests near names.

    >>> print(parse_pipeline(" fixpoint{limit=3}( pipeline( ) ) "))
    fixpoint{limit=3}(pipeline())
    """
    return Pipeline(tuple(_build(item, text) for item in parse_items(text)))


def parse_items(text: str) -> list[Item]:
    """Parse names with options, `a,b{c=1}`, without looking the names up.

    Raises:
        ParseError: malformed text; the token is underlined.
    """
    return _Parser(text).all()


def _tokenize(text: str) -> list[Token]:
    tokens = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ParseError(f"unexpected character {text[position]!r} in a pipeline", text, position)
        if match.lastgroup != "space":
            tokens.append(Token(match.lastgroup or "", match.group(), position))
        position = match.end()
    tokens.append(Token("end", "", len(text)))
    return tokens


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokenize(text)
        self.position = 0

    def all(self) -> list[Item]:
        items = self.items("")
        if self.peek.kind != "end":
            raise self.error("expected ',' or the end of the pipeline")
        return items

    @property
    def peek(self) -> Token:
        return self.tokens[self.position]

    def next(self) -> Token:
        token = self.peek
        self.position += token.kind != "end"
        return token

    def accept(self, text: str) -> bool:
        if self.peek.kind == "punct" and self.peek.text == text:
            self.next()
            return True
        return False

    def expect(self, text: str, opened: Token | None = None) -> Token:
        token = self.peek
        if not self.accept(text):
            where = f" to close the {opened.text!r} at column {opened.start + 1}" if opened else ""
            raise self.error(f"expected {text!r}{where}")
        return token

    def error(self, message: str, token: Token | None = None) -> ParseError:
        token = token or self.peek
        found = "the end of the text" if token.kind == "end" else repr(token.text)
        return ParseError(f"{message}, found {found}", self.text, token.start)

    def items(self, closer: str) -> list[Item]:
        items: list[Item] = []
        if self.peek.text == closer or self.peek.kind == "end":
            return items
        items.append(self.item())
        while self.accept(","):
            items.append(self.item())
        return items

    def item(self) -> Item:
        token = self.peek
        if token.kind != "word":
            raise self.error("expected the name of a pass")
        self.next()
        item = Item(token.text, token.start)
        opened = self.peek
        if self.accept("{"):
            item.options = self.options(opened)
        opened = self.peek
        if self.accept("("):
            item.children = self.items(")")
            self.expect(")", opened)
        item.end = self.peek.start
        return item

    def options(self, opened: Token) -> list[Given]:
        found: list[Given] = []
        while not self.accept("}"):
            if found and not self.accept(","):
                raise self.error(f"expected ',' or '}}' to close the '{{' at column {opened.start + 1}")
            found.append(self.option(found))
        return found

    def option(self, before: list[Given]) -> Given:
        token = self.peek
        if token.kind != "word":
            raise self.error("expected the name of an option")
        self.next()
        name = token.text.replace("-", "_")
        if any(given.name == name for given in before):
            raise ParseError(f"option {token.text!r} is given twice", self.text, token.start)
        self.expect("=")
        start = self.peek.start
        return Given(name, self.value(), token.start, start)

    def value(self) -> Any:
        token = self.next()
        if token.kind == "string":
            return json.loads(token.text)
        if token.kind == "number":
            return float(token.text) if re.search(r"[.eEn]", token.text) else int(token.text)
        if token.kind == "word":
            return _WORDS.get(token.text, token.text)
        if token.text in ("(", "["):
            return self.sequence(token, ")" if token.text == "(" else "]")
        if token.text == "{":
            return self.mapping(token)
        raise self.error("expected a value", token)

    def sequence(self, opened: Token, closer: str) -> tuple[Any, ...]:
        values: list[Any] = []
        while not self.accept(closer):
            if values:
                self.expect(",", None) if self.peek.text == "," else self.expect(closer, opened)
                if self.accept(closer):
                    break
            values.append(self.value())
        return tuple(values)

    def mapping(self, opened: Token) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.accept("}"):
            if found and not self.accept(","):
                raise self.error(f"expected ',' or '}}' to close the '{{' at column {opened.start + 1}")
            token = self.next()
            if token.kind not in ("word", "string"):
                raise self.error("expected a name", token)
            self.expect("=")
            found[json.loads(token.text) if token.kind == "string" else token.text] = self.value()
        return found


def _build(item: Item, text: str) -> Pass:
    try:
        factory = registry.factory(item.name)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}\n{underline(text, item.start)}") from None
    nests = isinstance(factory, type) and issubclass(factory, Pipeline)
    if item.children is not None and not nests:
        raise ParseError(f"pass {item.name!r} takes no passes in parentheses", text, item.start)
    options = _convert(factory, item, text)
    if nests:
        options["passes"] = tuple(_build(child, text) for child in item.children or ())
    try:
        made = make(factory, options)
    except GraphOptError:
        raise
    except (TypeError, ValueError) as error:
        raise ParseError(f"pass {item.name!r} refuses its options: {error}", text, item.start) from error
    if isinstance(made, Pipeline) and not nests:
        return made.titled(item.name + _options_text({g.name: g.value for g in item.options}))
    return made


def _convert(factory: Any, item: Item, text: str) -> dict[str, Any]:
    known = options_of(factory)
    converted = {}
    for given in item.options:
        try:
            check_names(factory, item.name, [given.name])
            converted[given.name] = convert(given.value, known[given.name].annotation)
        except UnknownNameError as error:
            raise UnknownNameError(f"{error}\n{underline(text, given.start)}") from None
        except ValueError as error:
            message = f"option {given.name!r} of {item.name!r} {error}, got {value_text(given.value)}"
            raise ParseError(message, text, given.value_start) from None
    missing = [o.name for o in known.values() if o.default is REQUIRED and o.name not in converted]
    if missing:
        raise ParseError(f"pass {item.name!r} needs option {missing[0]!r}", text, item.start)
    return converted


def print_pipeline(pass_: Pass) -> str:
    """Return the canonical text of a pipeline or a pass."""
    if type(pass_) is Pipeline:
        return pass_.title or ",".join(map(_item_text, pass_.passes))
    return _item_text(pass_)


def _item_text(pass_: Pass) -> str:
    if isinstance(pass_, Pipeline):
        if pass_.title:
            return pass_.title
        inner = ",".join(map(_item_text, pass_.passes))
        return f"{pass_.name}{_options_text(pass_.options())}({inner})"
    return pass_.name + _options_text(pass_.options())


def _options_text(options: dict[str, Any]) -> str:
    if not options:
        return ""
    return "{" + ",".join(f"{name.replace('_', '-')}={value_text(v)}" for name, v in options.items()) + "}"


def value_text(value: Any) -> str:
    """Return the text of an option's value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return value_text(member_text(value))
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and value not in _WORDS else json.dumps(value)
    if isinstance(value, tuple | list):
        return "(" + ",".join(map(value_text, value)) + (",)" if len(value) == 1 else ")")
    if isinstance(value, frozenset | set):
        return value_text(tuple(sorted(value)))
    if isinstance(value, dict):
        return "{" + ",".join(f"{value_text(str(k))}={value_text(v)}" for k, v in value.items()) + "}"
    return repr(value)
