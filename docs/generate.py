"""Writes `docs/reference/` from the code: settings, tables, contract, mobility features, API, command line.

    python -m docs.generate [--check]

Belongs here: turning declarations into Markdown. With `--check` nothing is written, and the exit code
is 1 when a page differs from what the code says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args, get_origin

import sqlalchemy as sa
import typer
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from docs.api_page import api_page
from docs.markdown import table
from medscore_assets import tables
from medscore_assets.contracts.fields import Category, Field, Whole
from medscore_assets.contracts.measures import Measure
from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.settings import Settings

REFERENCE = Path(__file__).with_name("reference")


def settings_page() -> str:
    """Every variable with its default and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        value = str(field.default).lower() if isinstance(field.default, bool) else field.default
        default = "" if value is None else f"`{value}`"
        rows.append((f"`MEDSCORE_{name.upper()}`", default, _values(field), field.description or ""))
    return (
        "# Settings\n\nEnvironment variables, or lines of the file `.env` in the project's folder.\n\n"
        + table(("variable", "default", "values", "meaning"), rows)
    )


def _values(field: FieldInfo) -> str:
    """What a setting may be, where that is not any text, address or path."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    if field.annotation is bool:
        return "`true`, `false`"
    low = next((rule.ge for rule in field.metadata if isinstance(rule, Ge)), None)
    high = next((rule.le for rule in field.metadata if isinstance(rule, Le)), None)
    if low is None and high is None:
        return ""
    return f"at least {low}" if high is None else f"{low} to {high}"


def tables_page() -> str:
    """Every table with columns, keys and checks."""
    pages = ["# Tables of the warehouse\n"]
    for declared in tables.metadata.sorted_tables:
        pages.append(f"## {declared.name}\n\n{declared.comment}\n")
        pages.append(
            table(
                ("column", "type", "key", "null", "meaning"),
                (
                    (
                        f"`{c.name}`",
                        str(c.type).lower(),
                        _key(c),
                        "yes" if c.nullable else "no",
                        c.comment or "",
                    )
                    for c in declared.columns
                ),
            )
        )
        checks = [c for c in declared.constraints if isinstance(c, sa.CheckConstraint)]
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
        + table(("column", "field", "kind", "valid values and codes", "risk", "meaning"), features)
        + "\n## Context: never a feature\n\n"
        + table(("field", "kind", "valid values", "meaning"), context)
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
        + table(("column", "feature", "unit", "window", "source", "valid values", "null", "meaning"), rows)
        + "\n## Constants that the formulas share\n\n"
        + table(("constant", "value"), rules)
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
            (
                f"`{' '.join([*p.opts, *p.secondary_opts])}`",
                getattr(p, "help", "") or "",
                _default(p),
            )
            for p in command.get_params(context)  # type: ignore[attr-defined]
            if p.name != "help"
        ]
        text = f"## {name}\n\n{(command.help or '').strip()}\n"  # type: ignore[attr-defined]
        yield text + ("\n" + table(("argument", "meaning", "default"), rows) if rows else "")
    for child in children.values():
        yield from _command_pages(child, f"{name} {child.name}")


def _default(parameter: object) -> str:
    if getattr(parameter, "required", False):
        return "required"
    value = getattr(parameter, "default", None)
    return "" if value is None or value is False else f"`{value}`"


PAGES = {
    "settings.md": settings_page,
    "tables.md": tables_page,
    "readmission-contract.md": contract_page,
    "mobility-features.md": mobility_features_page,
    "api.md": api_page,
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
