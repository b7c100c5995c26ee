"""The TRIPOD+AI checklist of an evaluation: every item, where it is answered, and whether that is there.

Belongs here: reading a family's answers, checking that each pointer leads somewhere, the CSV.
Does not belong here: the answers themselves (a family's `tripod_ai.toml`). The topics are in our own
words; the items' wording is in Collins et al., BMJ 2024;385:e078378.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from resources.errors import PermanentError

ITEMS = (
    "1", "2", "3a", "3b", "3c", "4", "5a", "5b", "6a", "6b", "6c", "7", "8a", "8b", "8c", "9a", "9b", "9c",
    "10", "11", "12a", "12b", "12c", "12d", "12e", "12f", "12g", "13", "14", "15", "16", "17", "18a", "18b",
    "18c", "18d", "18e", "18f", "19", "20a", "20b", "20c", "21", "22", "23a", "23b", "24", "25", "26", "27a",
    "27b", "27c",
)  # fmt: skip
"""The checklist's item numbers, in its order."""

Status = Literal["answered", "partly", "not applicable", "not done"]
Text = Annotated[str, Field(min_length=1)]
Pointer = Annotated[str, Field(pattern=r"^(#[a-z][a-z0-9-]*|file:[\w./-]+|manifest:[\w.]+)$")]
"""An anchor of the page (`#calibration`), a file of the program (`file:medscore_assets/...`), or an entry
of the model's manifest (`manifest:recalibration.slope`)."""

PROGRAM = Path(__file__).resolve().parents[2]
"""The folder in which the pointers' files lie: that of the package `medscore_assets`."""


class Item(BaseModel):
    """One item: where it is answered, or why it is not."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    item: Text
    topic: Text
    status: Status
    where: list[Pointer] = []
    note: str = ""

    @model_validator(mode="after")
    def _says_where_or_why(self) -> Self:
        if self.status in ("answered", "partly") and not self.where:
            raise ValueError(f"item {self.item} is {self.status} and does not say where")
        if self.status != "answered" and not self.note.strip():
            raise ValueError(f"item {self.item} is {self.status} and does not say why")
        return self


class _Checklist(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    items: list[Item]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (found := tuple(item.item for item in self.items)) != ITEMS:
            wrong = sorted(set(ITEMS) ^ set(found)) or "their order"
            raise ValueError(f"the items are not those of the checklist: {wrong}")
        return self


def load_items(file: Path) -> tuple[Item, ...]:
    """A family's answers, all items in order. Raises `PermanentError` that names what is wrong."""
    try:
        # From JSON, so that a TOML date or number where a text belongs is refused by name.
        found = json.dumps(tomllib.loads(file.read_text(encoding="utf-8")), default=str)
        return tuple(_Checklist.model_validate_json(found).items)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PermanentError(
            f"the TRIPOD+AI answers cannot be read: {error}", where=file.name, mend="Restore the file."
        ) from error
    except ValidationError as error:
        entries = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise PermanentError(
            f"the TRIPOD+AI answers are not valid: {entries}", where=file.name, mend="Correct these entries."
        ) from error


def unresolved(
    items: Iterable[Item], html: str, manifest: Mapping[str, Any], program: Path = PROGRAM
) -> list[str]:
    """The pointers that lead nowhere, as `item 12c: #tuning`; empty if all resolve."""
    anchors = _anchors(html)
    return [
        f"item {item.item}: {pointer}"
        for item in items
        for pointer in item.where
        if not _resolves(pointer, anchors, manifest, program)
    ]


def _resolves(pointer: str, anchors: set[str], manifest: Mapping[str, Any], program: Path) -> bool:
    if pointer.startswith("#"):
        return pointer[1:] in anchors
    kind, _, name = pointer.partition(":")
    if kind == "file":
        return (program / name).is_file()
    found: Any = manifest
    for key in name.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return False
        found = found[key]
    return found is not None


def _anchors(html: str) -> set[str]:
    found: set[str] = set()

    class Anchors(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.update(value for name, value in attrs if name == "id" and value)

    Anchors(convert_charrefs=True).feed(html)
    return found


def to_csv(items: Sequence[Item]) -> str:
    """The table as CSV: item, topic, status, where answered, note."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["item", "topic", "status", "where_answered", "note"])
    for item in items:
        note = re.sub(r"\s+", " ", item.note).strip()
        table.writerow([item.item, item.topic, item.status, " ".join(item.where), note])
    return text.getvalue()
