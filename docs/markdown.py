"""Markdown that the pages of `docs/reference/` are made of.

Belongs here: what every generated page needs. Does not belong here: what any page says.
"""

from __future__ import annotations

from collections.abc import Iterable


def table(heading: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table, one line a row; cells may hold any text."""

    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    heading = list(heading)
    return "\n".join([line(heading), line("---" for _ in heading), *map(line, rows)]) + "\n"
