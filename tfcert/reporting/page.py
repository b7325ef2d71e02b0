"""A web page in one file: no script, nothing loaded from elsewhere, every text escaped."""

from __future__ import annotations

import html
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Section", "details", "document", "escape", "facts", "figure", "plain"]

_STYLE = pathlib.Path(__file__).with_name("page.css")


class Section(NamedTuple):
    """A part of a page; `body` is HTML, `title` is text."""

    title: str
    body: str


def plain(text: str, most: int | None = 200) -> str:
    """The text without characters that control, reorder or hide others, and not too long."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    # Cc, Cf, Cs: control, format (among them those that turn the direction), half a pair.
    odd = (unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in text)
    return "".join("\ufffd" if hide else letter for letter, hide in zip(text, odd, strict=True))


def escape(text: str, most: int | None = 200) -> str:
    """The text as HTML, between tags or inside a quoted attribute."""
    return html.escape(plain(text, most), quote=True)


def figure(picture: str, caption: str) -> str:
    """A figure with its caption; `picture` is HTML, the caption text."""
    return (
        f'<figure>{picture}<figcaption class="note">{escape(caption, None)}</figcaption></figure>'
    )


def facts(rows: Mapping[str, str]) -> str:
    """Names and values, both text, as a list of two columns."""
    lines = "\n".join(
        f"<div><dt>{escape(name, 100)}</dt><dd>{escape(value, 500)}</dd></div>"
        for name, value in rows.items()
    )
    return f'<dl class="facts">\n{lines}\n</dl>'


def details(title: str, body: str) -> str:
    """HTML that is folded away below its title, text; it opens without a script."""
    return f"<details>\n<summary>{escape(title)}</summary>\n{body}\n</details>"


def document(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: Text.
        lead: HTML that follows the title.
        sections: The rest, each with a heading; more than two get links at the top.
    """
    used: set[str] = set()
    links, parts = [], []
    for section in sections:
        anchor = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "part"
        while anchor in used:
            anchor += "-"
        used.add(anchor)
        heading = escape(section.title)
        links.append(f'<a href="#{anchor}">{heading}</a>')
        parts.append(
            f'<section id="{anchor}">\n<h2>{heading}</h2>\n{section.body}\n</section>',
        )
    contents = f"<nav>{' '.join(links)}</nav>" if len(links) > 2 else ""
    # The policy forbids what the page does not need, should an escape ever be missing.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{lead}
{contents}
{chr(10).join(parts)}
</main>
</body>
</html>
"""
