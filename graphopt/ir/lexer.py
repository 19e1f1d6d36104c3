"""Tokens of the text form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from graphopt.errors import ParseError

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r]+|//[^\n]*)
  | (?P<newline>\n)
  | (?P<value>%(?:[A-Za-z0-9_.$]+|"(?:[^"\\\n]|\\.)*"))
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<arrow><-)
  | (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?)
  | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
  | (?P<punct>//|[-+*/%(){}\[\]<>=:,@])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token: its kind, its text, and where it starts and ends."""

    kind: str
    text: str
    start: int
    end: int


class Lexer:
    """A cursor over tokens with one of look-ahead. Newlines end statements; spaces and `// comments` vanish.

    A `//` is a comment only at the start of a line or after two spaces, since it also divides dims.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokenize(text)
        self.position = 0

    @property
    def peek(self) -> Token:
        """The next token."""
        return self.tokens[self.position]

    def next(self) -> Token:
        """Consume and return the next token."""
        token = self.tokens[self.position]
        self.position = min(self.position + 1, len(self.tokens) - 1)
        return token

    def at(self, text: str) -> bool:
        """True if the next token is this punctuation or word."""
        token = self.peek
        return token.text == text and token.kind not in ("string", "value")

    def accept(self, text: str) -> bool:
        """Consume the next token if it is `text`."""
        if self.at(text):
            self.next()
            return True
        return False

    def expect(self, text: str) -> Token:
        """Consume `text`, or raise."""
        if not self.at(text):
            raise self.error(f"expected {text!r}")
        return self.next()

    def expect_kind(self, kind: str) -> Token:
        """Consume a token of `kind`, or raise."""
        if self.peek.kind != kind:
            raise self.error(f"expected a {kind}")
        return self.next()

    def skip_newlines(self) -> None:
        """Consume newlines."""
        while self.peek.kind == "newline":
            self.next()

    def end_statement(self) -> None:
        """Consume the end of a line, or stop before a closing brace."""
        if self.peek.kind not in ("newline", "end") and not self.at("}"):
            raise self.error("expected the end of the line")
        self.skip_newlines()

    def string(self) -> str:
        """Consume a quoted string."""
        text: str = json.loads(self.expect_kind("string").text)
        return text

    def integer(self) -> int:
        """Consume an integer, perhaps negative."""
        sign = -1 if self.accept("-") else 1
        token = self.expect_kind("number")
        if not token.text.isdigit():
            raise self.error("expected an integer", token)
        return sign * int(token.text)

    def error(self, message: str, token: Token | None = None) -> ParseError:
        """Build an error that underlines a token."""
        where = token or self.peek
        found = "the end of the text" if where.kind == "end" else "the end of the line" if where.kind == "newline" else repr(where.text)
        return ParseError(f"{message}, found {found}", self.text, where.start)


def _tokenize(text: str) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ParseError(f"unexpected character {text[position]!r}", text, position)
        kind = match.lastgroup or ""
        start, position = position, match.end()
        if kind == "space" and match.group().startswith("//") and not _starts_comment(text, start):
            kind, position = "punct", start + 2
        if kind != "space":
            tokens.append(Token(kind, text[start:position], start, position))
    tokens.append(Token("end", "", len(text), len(text)))
    return tokens


def _starts_comment(text: str, position: int) -> bool:
    before = text[text.rfind("\n", 0, position) + 1 : position]
    return not before.strip() or before.endswith("  ")
