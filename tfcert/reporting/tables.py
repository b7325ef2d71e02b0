"""A table of numbers, and its three forms: for a page, for LaTeX, and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

from tfcert.reporting import page
from tfcert.reporting.statistics import Estimate

__all__ = ["Column", "Table"]

_ROWS = 60  # of a table on a page


@dataclasses.dataclass(frozen=True)
class Column:
    """A heading, and how its cells are written.

    Attributes:
        title: The heading.
        form: A format specification such as ".3f" or ".1%", or "s" for text.
        estimate: Whether the cells are estimates, written with their standard errors.
    """

    title: str
    form: str = "s"
    estimate: bool = False

    def shown(self, value: Any) -> str:
        """A cell as readers see it; a dash where there is nothing."""
        if self.form == "s":
            return page.plain(str(value))
        if not isinstance(value, Estimate):
            return _number(value, self.form)
        if math.isnan(value.error):
            return _number(value.value, self.form)
        error = _number(value.error, self.form.removeprefix("+"))
        return f"{_number(value.value, self.form).removesuffix('%')} ± {error}"


def _number(value: float | None, form: str) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{form}}".replace("-", "−")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under named columns; `name` is that of its files, `note` explains it on the page."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"`rows` must have {len(self.columns)} cells each. Received: {row}."
                )

    def html(self) -> str:
        """The table inside a box of its own that scrolls where the screen is narrower.

        A table of few rows and many columns is turned: on a phone there is more room below than
        beside.
        """
        lines = [[column.title for column in self.columns]]
        for row in self.rows[:_ROWS]:
            pairs = zip(self.columns, row, strict=True)
            lines.append([column.shown(value) for column, value in pairs])
        texts = [column.form == "s" for column in self.columns]
        if len(self.rows) < 4 and len(self.columns) > 5 and not any(texts[1:]):
            lines = [list(line) for line in zip(*lines, strict=True)]
            texts = [True] + [False] * len(self.rows)
        head, *body = (_html_line(line, texts, place == 0) for place, line in enumerate(lines))
        note = self.note
        if len(self.rows) > _ROWS:
            note += f" The first {_ROWS} of {len(self.rows)} rows; all are in {self.name}.csv."
        if note:
            note = f'\n<p class="note">{page.escape(note.strip(), None)}</p>'
        title = page.escape(self.title)
        rows = "\n".join(body)
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{title}">\n<table>'
            f"<caption>{title}</caption>\n<thead>{head}</thead>\n<tbody>\n{rows}\n"
            f"</tbody></table></div>{note}"
        )

    def csv(self) -> str:
        """All digits; an estimate takes two columns."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        head = []
        for column in self.columns:
            head += [column.title, f"{column.title}, standard error"][: 1 + column.estimate]
        writer.writerow(head)
        for row in self.rows:
            cells: list[Any] = []
            for column, value in zip(self.columns, row, strict=True):
                if column.estimate:
                    cells += list(value) if isinstance(value, Estimate) else [value, None]
                else:
                    cells.append(_no_formula(value) if column.form == "s" else value)
            writer.writerow(["" if cell != cell else cell for cell in cells])  # NaN: empty
        return out.getvalue()

    def latex(self) -> str:
        """A tabular that needs no package."""
        align = "".join("l" if column.form == "s" else "r" for column in self.columns)
        lines = [[_latex(column.title) for column in self.columns]]
        for row in self.rows:
            pairs = zip(self.columns, row, strict=True)
            lines.append([_latex(column.shown(value)) for column, value in pairs])
        head, *body = [" & ".join(cells) + r" \\" for cells in lines]
        begin, end = rf"\begin{{tabular}}{{{align}}}", r"\end{tabular}"
        comment = "% " + " ".join(page.plain(self.title).split())
        return "\n".join(
            [comment, begin, r"\hline", head, r"\hline", *body, r"\hline", end, ""],
        )


def _html_line(cells: Sequence[str], texts: Sequence[bool], head: bool) -> str:
    """A row; its first cell names it, columns of text are wrapped."""
    parts = []
    for place, (cell, text) in enumerate(zip(cells, texts, strict=True)):
        tag = "th" if head or place == 0 else "td"
        scope = f' scope="{"col" if head else "row"}"' if tag == "th" else ""
        kind = f' class="{"text" if place else "name"}"' if text else ""
        parts.append(f"<{tag}{scope}{kind}>{page.escape(cell)}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"


def _no_formula(value: Any) -> str:
    """A text that no spreadsheet takes for a formula."""
    text = page.plain(str(value))
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text


_LATEX = {
    **{letter: "\\" + letter for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "ε": r"$\varepsilon$",
    "≥": r"$\ge$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in page.plain(text))
