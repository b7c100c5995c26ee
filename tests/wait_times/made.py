"""Visits that are made by hand: times in minutes from a moment of their own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from medscore_assets.wait_times.snapshot import Snapshot, build_snapshot
from medscore_assets.wait_times.visits import TIMES, Visits

NOW = datetime(2026, 1, 15, 17, tzinfo=UTC)
ZONE = "America/Toronto"


def visit(arrival: float | None, pia: float | None = None, **more: Any) -> dict[str, Any]:
    """A version of a visit that was recorded at once; times in minutes from NOW."""
    begin = min(time for time in (arrival, pia, 0.0) if time is not None)
    return {"arrival": arrival, "pia_at": pia, "recorded_at": begin} | more


def visits(*rows: Mapping[str, Any], now: datetime = NOW) -> Visits:
    """Rows of `ed_visits`, each another visit to the facility `ed` unless it says otherwise."""
    columns: dict[str, list[Any]] = {name: [] for name in TIMES}
    for row in rows:
        for name in TIMES:
            minutes = row.get(name)
            columns[name].append(None if minutes is None else now + timedelta(minutes=minutes))
    arrays = {name: pa.array(values, pa.timestamp("us", "UTC")) for name, values in columns.items()}
    return Visits.of(
        pa.table(
            {
                "facility_id": pa.array([row.get("facility", "ed") for row in rows], pa.string()),
                "visit_id": pa.array([row.get("id", f"v{n}") for n, row in enumerate(rows)], pa.string()),
                "ctas": pa.array([row.get("ctas", 3) for row in rows], pa.int16()),
                "scheduled": pa.array([row.get("scheduled", False) for row in rows], pa.bool_()),
                **arrays,
            }
        )
    )


def snapshot(*rows: Mapping[str, Any], after: float = 0, now: datetime = NOW, zone: str = ZONE) -> Snapshot:
    """What was known about the facility `ed`, so many minutes after NOW."""
    return build_snapshot(visits(*rows, now=now), [("ed", now + timedelta(minutes=after))], {"ed": zone})
