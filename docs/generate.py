"""Writes `docs/reference/` from the code: settings, tables, contract, policy, command line.

    python docs/generate.py [--check]

Belongs here: turning declarations into Markdown. With `--check` nothing is written, and the exit code
is 1 when a page differs from what the code says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa
import typer

from medscore_assets import tables
from medscore_assets.contracts.fields import Category, Field, Whole
from medscore_assets.contracts.measures import Measure
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.settings import Settings

REFERENCE = Path(__file__).with_name("reference")


def _table(heading: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    heading = list(heading)
    return "\n".join([line(heading), line("---" for _ in heading), *map(line, rows)]) + "\n"


def settings_page() -> str:
    """Every variable with its default and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append((f"`MEDSCORE_{name.upper()}`", default, field.description or ""))
    return (
        "# Settings\n\nEnvironment variables, or lines of the file `.env` in the project's folder.\n\n"
        + _table(("variable", "default", "meaning"), rows)
    )


def tables_page() -> str:
    """Every table with columns, keys and checks."""
    pages = ["# Tables of the warehouse\n"]
    for table in tables.metadata.sorted_tables:
        pages.append(f"## {table.name}\n\n{table.comment}\n")
        pages.append(
            _table(
                ("column", "type", "key", "null", "meaning"),
                (
                    (
                        f"`{c.name}`",
                        str(c.type).lower(),
                        _key(c),
                        "yes" if c.nullable else "no",
                        c.comment or "",
                    )
                    for c in table.columns
                ),
            )
        )
        checks = [c for c in table.constraints if isinstance(c, sa.CheckConstraint)]
        if checks:
            pages.append("Checks:\n\n" + "\n".join(sorted(f"- `{c.sqltext}`" for c in checks)) + "\n")
    return "\n".join(pages)


def _key(column: sa.Column[object]) -> str:
    kept_by_triggers = column.info.get("references", ())
    names = [*(fk.column.table.name for fk in column.foreign_keys), *kept_by_triggers]
    targets = [f"→ `{name}`" for name in names]
    return ", ".join((["primary"] if column.primary_key else []) + targets)


def contract_page() -> str:
    """The fields of the readmission contract."""
    context = ((f"`{f.name}`", f.kind, _rule(f), f.description) for f in READMISSION.context)
    features = (
        (n, f"`{f.name}`", f.kind, _rule(f), _monotone(f), f.description)
        for n, f in enumerate(READMISSION.features)
    )
    return (
        "# The readmission contract\n\n"
        f"Hash `{READMISSION.hash}`. Declared in `medscore_assets/contracts/readmission.py`.\n\n"
        "## Features, in the order of the model's columns\n\n"
        + _table(("column", "field", "kind", "valid values and codes", "risk", "meaning"), features)
        + "\n## Context: never a feature\n\n"
        + _table(("field", "kind", "valid values", "meaning"), context)
    )


def mobility_features_page() -> str:
    """The dictionary of the mobility features."""
    rows = (
        (
            n,
            f"`{f.name}`",
            f.unit or "",
            f.window.words,
            f.source,
            _range(f),
            "yes" if f.nullable else "no",
            f.description,
        )
        for n, f in enumerate(MOBILITY.features)
    )
    rules = ((f"`{name}`", value) for name, value in MOBILITY.rules)
    return (
        "# The features of mobility\n\n"
        f"Hash `{MOBILITY.hash}`. Declared in `medscore_assets/contracts/mobility.py`.\n\n"
        "A row of `patient_features` is one patient and day, and says what was known strictly before that "
        "day. Windows are calendar days counted back from it; a day without data leaves a hole and does "
        "not stretch them.\n\n"
        + _table(("column", "feature", "unit", "window", "source", "valid values", "null", "meaning"), rows)
        + "\n## Constants that the formulas share\n\n"
        + _table(("constant", "value"), rules)
    )


def _range(feature: Measure) -> str:
    if feature.categories:
        return ", ".join(f"`{name}`" for name in feature.categories)
    if feature.minimum is None or feature.maximum is None:
        return "any text"
    return f"{feature.minimum:,} to {feature.maximum:,}"


def _rule(field: Field) -> str:
    match field:
        case Whole():
            return f"{field.minimum} to {field.maximum} {field.unit}"
        case Category():
            return ", ".join(f"{code} `{name}`" for code, name in enumerate(field.categories))
        case _:
            return {"flag": "true 1, false 0"}.get(field.kind, "")


def _monotone(field: Field) -> str:
    return "may only rise" if isinstance(field, Whole) and field.monotone == 1 else "free"


def cli_page() -> str:
    """Every command with its arguments."""
    from typer.main import get_command

    from medscore_assets.cli import app

    return "# Command line\n\n" + "\n".join(_command_pages(get_command(app), "medscore"))


def _command_pages(command: object, name: str) -> Iterable[str]:
    context = typer.Context(command, info_name=name)  # type: ignore[arg-type]
    children = getattr(command, "commands", {})
    if not children:
        rows = [
            (f"`{' '.join([*p.opts])}`", getattr(p, "help", "") or "", _default(p))
            for p in command.get_params(context)  # type: ignore[attr-defined]
            if p.name != "help"
        ]
        text = f"## {name}\n\n{(command.help or '').strip()}\n"  # type: ignore[attr-defined]
        yield text + ("\n" + _table(("argument", "meaning", "default"), rows) if rows else "")
    for child in children.values():
        yield from _command_pages(child, f"{name} {child.name}")


def _default(parameter: object) -> str:
    value = getattr(parameter, "default", None)
    return "" if value in (None, False) or getattr(parameter, "required", False) else f"`{value}`"


PAGES = {
    "settings.md": settings_page,
    "tables.md": tables_page,
    "readmission-contract.md": contract_page,
    "mobility-features.md": mobility_features_page,
    "command-line.md": cli_page,
}


def main(check: bool) -> int:
    """Writes or compares every page; returns the exit code."""
    stale = []
    for name, page in PAGES.items():
        file = REFERENCE / name
        text = page().rstrip() + "\n"
        if check and (not file.exists() or file.read_text() != text):
            stale.append(name)
        elif not check:
            REFERENCE.mkdir(exist_ok=True)
            file.write_text(text)
    if stale:
        print(f"docs/reference is out of date: {', '.join(stale)}. Run: make docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv))
