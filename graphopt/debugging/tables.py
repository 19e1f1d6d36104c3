"""Tables that are shown as plain text and by the library rich alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Table:
    """A title, headers and rows of text. left: the headers whose columns are aligned to the left.

    styles: a style of rich for each row that has one.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[str] = ()
    styles: dict[int, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return lines of aligned columns; columns that are empty throughout are left out.

        >>> print("\\n".join(Table("", ["name", "n"], [["a", "10"], ["bc", "9"]], ["name"]).lines()))
        name   n
        ----  --
        a     10
        bc     9
        """
        used = self._used()
        widths = {i: max(len(self.headers[i]), *(len(row[i]) for row in self.rows), 0) for i in used}

        def line(cells: Sequence[str]) -> str:
            parts = (cells[i].ljust(widths[i]) if self._is_left(i) else cells[i].rjust(widths[i]) for i in used)
            return "  ".join(parts).rstrip()

        rule = "  ".join("-" * widths[i] for i in used)
        return [*([self.title] if self.title else []), line(self.headers), rule, *map(line, self.rows)]

    def rich(self) -> Any:
        """Return the table as a renderable of the library rich."""
        from rich.table import Table as RichTable
        from rich.text import Text

        view = RichTable(title=self.title or None, title_justify="left", box=None, pad_edge=False)
        for index in self._used():
            left = self._is_left(index)
            view.add_column(
                self.headers[index], justify="left" if left else "right", overflow="fold" if left else "ellipsis"
            )
        for number, row in enumerate(self.rows):
            view.add_row(*(Text(row[i]) for i in self._used()), style=self.styles.get(number))
        return view

    def _used(self) -> list[int]:
        return [i for i in range(len(self.headers)) if i == 0 or any(row[i] for row in self.rows)]

    def _is_left(self, index: int) -> bool:
        return self.headers[index] in self.left


def bar(share: float, width: int = 20) -> str:
    """A bar for a share from 0 to 1, in eighths of a character; what is less shows as a thin line.

    >>> bar(0.5, 4), bar(0.0, 4), bar(0.28, 4)
    ('██', '', '█▏')
    """
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + ("" if not rest else "▏▎▍▌▋▊▉"[rest - 1])


def shorten(text: str, width: int) -> str:
    """Cut text to a width, with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"
