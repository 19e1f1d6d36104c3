"""Tokens of the text form."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from graphopt.errors import ParseError

_TOKEN = re.compile(
    r"""
    (?:^[ \t\r]*|[ ]{2,})(?P<comment>//[^\n]*)
  | [ \t\r]*
    (?: (?P<newline>\n)
      | (?P<value>(?<![\w)"])%(?:[A-Za-z0-9_.$]+|"(?:[^"\\\n]|\\.)*"))
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<arrow><-)
      | (?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?)
      | (?P<word>[^\W\d][\w.]*)
      | (?P<punct>//|[-+*/%(){}\[\]<>=:,@])
    )
    """,
    re.VERBOSE | re.MULTILINE,
)
_QUOTED = ("string", "value")


class Token(NamedTuple):
    """A token: its kind, its text, and where it starts and ends."""

    kind: str
    text: str
    start: int
    end: int


class Lexer:
    """A cursor over tokens with one of look-ahead. Newlines end statements; spaces and `// comments` vanish.

    A `//` is a comment only at the start of a line or after two spaces, since it also divides dims.
    """

    __slots__ = ("text", "tokens", "position", "peek")

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokenize(text)
        self.seek(0)

    def seek(self, position: int) -> None:
        """Put the cursor before a token."""
        self.position = position
        self.peek = self.tokens[position]
        """The next token."""

    def next(self) -> Token:
        """Consume and return the next token. The last one, of kind `end`, stays."""
        token = self.peek
        if token.kind != "end":
            self.position += 1
            self.peek = self.tokens[self.position]
        return token

    def at(self, text: str) -> bool:
        """True if the next token is this punctuation or word."""
        token = self.peek
        return token.text == text and token.kind not in _QUOTED

    def accept(self, text: str) -> bool:
        """Consume the next token if it is `text`."""
        token = self.peek
        if token.text == text and token.kind not in _QUOTED:
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
        token = self.expect_kind("string")
        return self.unquoted(token, token.text)

    def unquoted(self, token: Token, quoted: str) -> str:
        """The string that a JSON literal in a token stands for."""
        try:
            text: str = json.loads(quoted)
        except json.JSONDecodeError:
            raise self.error("malformed string", token) from None
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
        found = {"end": "the end of the text", "newline": "the end of the line"}.get(where.kind, repr(where.text))
        return ParseError(f"{message}, found {found}", self.text, where.start)


def _tokenize(text: str) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    match_at, make = _TOKEN.match, tuple.__new__
    while match := match_at(text, position):
        kind = match.lastgroup or ""
        position = match.end()
        if kind != "comment":
            start = match.start(kind)
            tokens.append(make(Token, (kind, text[start:position], start, position)))
    rest = text[position:].lstrip(" \t\r")
    if rest:
        raise ParseError(f"unexpected character {rest[0]!r}", text, len(text) - len(rest))
    tokens.append(Token("end", "", len(text), len(text)))
    return tokens
