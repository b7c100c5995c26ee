"""The cells as files: a CSV per cube, the columns explained, one tidy Parquet.

Belongs here: number format and bytes. Does not belong here: what the columns mean (`dictionary.py`).

The same cells give the same bytes: fixed order of columns and rows, counts as whole numbers, every other
number as the shortest decimal that is read back as the same number, LF line ends, UTF-8.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from medscore_assets.report.population import cells as published
from medscore_assets.report.population.dictionary import COLUMNS, DIMENSION_NAMES, Column
from medscore_assets.report.population.flow import Line
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_RUN_BY_SPREADSHEETS = tuple("=+-@\t\r\n")


def cube_csv(cells: pd.DataFrame, cube: str) -> bytes:
    """The rows of a cube with the dimensions it is split by, and every measure."""
    split = published.split_by(cells, cube)
    columns = [column for column in COLUMNS if column.name not in DIMENSION_NAMES or column.name in split]
    rows = published.records(cells[cells["cube"] == cube])
    return _csv(
        [column.name for column in columns],
        ([_written(column, row[column.name]) for column in columns] for row in rows),
    )


def columns_csv() -> bytes:
    """The data dictionary."""
    return _csv(["name", "unit", "meaning", "denominator"],
                ([c.name, c.unit, c.meaning, c.denominator] for c in COLUMNS))  # fmt: skip


def flow_csv(lines: Sequence[Line]) -> bytes:
    """The flow of members as printed."""
    rows = (
        [_guarded(x.label), "true" if x.depth else "false", "" if x.members is None else str(x.members)]
        for x in lines
    )
    return _csv(["step", "part_of_the_step_before", "members"], rows)


def file_name(cube: str) -> str:
    """The file of a cube. Raises `PermanentError` for a name that is none of a file."""
    if not re.fullmatch("[a-z][a-z0-9_]{0,60}", cube) or cube in ("columns", "flow"):
        raise PermanentError(
            "a cube's name is not one of lower-case letters, digits and _",
            where="population_risk_published",
            mend="Name the cube for the dimensions that it is split by.",
        )
    return f"{cube}.csv"


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue().encode()


def _written(column: Column, value: Any) -> str:
    if column.kind == "text":
        return _guarded(str(value))
    if column.kind == "flag":
        return "true" if value else "false"
    if column.kind == "list":
        return ";".join(sorted(value))
    found = _number(value)
    if found is None:
        return ""
    return str(round(found)) if column.kind == "count" else repr(found)


def _guarded(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_RUN_BY_SPREADSHEETS) else text


def _number(value: Any) -> float | None:
    """The number, or None where there is none; minus zero has no place in a table."""
    return float(value) + 0.0 if isinstance(value, Real) and value == value else None


def parquet(cells: pd.DataFrame) -> bytes:
    """All cells, the dimensions as they are, nothing of the writer's time or machine."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = [_array(column, list(cells[column.name])) for column in COLUMNS]
    table = pa.table(dict(zip([column.name for column in COLUMNS], arrays, strict=True)))
    file = io.BytesIO()
    pq.write_table(table, file, version="2.6", compression="zstd", compression_level=3,
                   row_group_size=1 << 20, data_page_version="1.0")  # fmt: skip
    return file.getvalue()


def _array(column: Column, values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    if column.kind == "text":
        return pa.array([str(value) for value in values], pa.string())
    if column.kind == "flag":
        return pa.array([bool(value) for value in values], pa.bool_())
    if column.kind == "list":
        return pa.array([sorted(value) for value in values], pa.list_(pa.string()))
    numbers = [_number(value) for value in values]
    if column.kind == "count":
        return pa.array([None if n is None else round(n) for n in numbers], pa.int64())
    return pa.array(numbers, pa.float64())
