"""A part of a report: a section of the page, with its tables and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfcert.reporting import page
from tfcert.reporting.tables import Table

__all__ = ["Part"]


@dataclasses.dataclass
class Part:
    """A section that grows piece by piece.

    Attributes:
        title: Its heading, text.
        pieces: HTML.
        tables: The tables among the pieces, which get files of their own.
        pictures: Figures as PNG files, by name.
    """

    title: str
    pieces: list[str] = dataclasses.field(default_factory=list)
    tables: list[Table] = dataclasses.field(default_factory=list)
    pictures: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def text(self, words: str, kind: str = "note") -> None:
        """Adds a paragraph."""
        self.pieces.append(f'<p class="{kind}">{page.escape(words, None)}</p>')

    def table(self, table: Table) -> None:
        """Adds a table, on the page and as files."""
        self.tables.append(table)
        self.pieces.append(table.html())

    def figures(self, figures: Sequence[str]) -> None:
        """Adds figures, side by side where there is room."""
        if figures:
            self.pieces.append(f'<div class="figures">{"".join(figures)}</div>')

    def section(self) -> page.Section:
        """The section as HTML."""
        return page.Section(self.title, "\n".join(self.pieces))
