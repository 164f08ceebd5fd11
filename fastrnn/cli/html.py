"""A page about a checkpoint, in one file: tables with bars, and pictures of gates; no scripts, nothing from outside."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from typing import Any

from . import show

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7bd0; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.facts { margin: .2rem 0; opacity: .75; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.name { white-space: pre-wrap; font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
td.bar { width: 9rem; }
td.bar i { display: block; height: .7rem; margin-top: .4rem; background: var(--bar); border-radius: 2px; }
img { max-width: 100%; background: white; border-radius: 4px; }
"""

Row = tuple[Sequence[object], float]


def page(title: str, facts: Iterable[str], sections: Iterable[str]) -> str:
    """The page: a title, lines below it, and what `table` and `picture` made."""
    lines = "".join(f'<p class="facts">{_text(fact)}</p>\n' for fact in facts)
    head = f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>{_text(title)}</title>'
    body = f"<h1>{_text(title)}</h1>\n{lines}{''.join(sections)}"
    head = f"<head>\n{head}\n<style>{_STYLE}</style>\n</head>"
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n<body>\n{body}</body>\n</html>\n'


def table(heading: str, columns: Sequence[str], rows: Iterable[Row]) -> str:
    """A table whose first column is a name and whose rows each have a bar of their share.

    `columns` are titles; one that starts with ">" is aligned to the right. A row is its cells and how large it is.
    """
    rows = list(rows)
    most = max((size for _, size in rows), default=0) or 1
    kinds = [' class="number"' if title.startswith(">") else "" for title in columns]
    head = "".join(f"<th{kind}>{_text(t.removeprefix('>'))}</th>" for t, kind in zip(columns, kinds, strict=True))
    kinds[0] = ' class="name"'
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{_text(cell)}</td>" for cell, kind in zip(cells, kinds, strict=True))
        + f'<td class="bar"><i style="width:{100 * size / most:.1f}%"></i></td></tr>\n'
        for cells, size in rows
    )
    return f'<h2>{_text(heading)}</h2>\n<div class="wide"><table>\n<tr>{head}<th></th></tr>\n{body}</table></div>\n'


def picture(heading: str, figure: Any) -> str:
    """A matplotlib Figure."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    data = b64encode(file.getvalue()).decode("ascii")
    return f'<h2>{_text(heading)}</h2>\n<img alt="{_text(heading)}" src="data:image/png;base64,{data}">\n'


def _text(value: object) -> str:
    """Names in a file are anyone's."""
    return escape(show.plain(value))
