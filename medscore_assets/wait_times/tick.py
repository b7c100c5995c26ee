"""One tick: what was known at its moment, every model, one write.

Belongs here: the order of reading, running and writing, and what a tick finds wrong. Does not belong here:
when ticks are (`schedules/wait_times.py`), the models and their containment (`running.py`), telling people
(`troubles.py`).

A tick belongs to its scheduled moment, never to the clock: made later, or again, it gives the same rows. What
fails of one model or facility is stored as rows of their own and stops nothing else.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.wait_times import store
from medscore_assets.wait_times.assignment import Bootstrap
from medscore_assets.wait_times.backtest import EVERY
from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.boards import put_displays
from medscore_assets.wait_times.breakers import load_breakers, save_breakers
from medscore_assets.wait_times.clock import as_datetime
from medscore_assets.wait_times.model import Model
from medscore_assets.wait_times.prediction import HAS_VALUE, Predictions, Status
from medscore_assets.wait_times.registry import Failure, Registry, locked
from medscore_assets.wait_times.running import BUDGET, ModelRun, run_models
from medscore_assets.wait_times.snapshot import HISTORY, Snapshot, build_snapshot
from medscore_assets.wait_times.visits import Visits
from resources.errors import PermanentError
from resources.warehouse import Warehouse

TIMELY = 2 * EVERY
"""A tick that is made later than so long after its moment is a replay."""

SILENT_AFTER = timedelta(hours=2)
"""A facility whose newest row is older may have lost its feed..."""
USUAL_ARRIVALS = 2.0
"""...if so many patients come in these hours of other days: each makes several rows."""
SILENT_FOR_SURE = timedelta(hours=24)
MISSED_ARRIVALS = 10.0
"""Nobody came for two hours or more in which so many do on other days: registrations are missing. By chance
it happens once in 20,000 times."""

_WRONG = (Status.ERROR, Status.INVALID, Status.TIMEOUT)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Tick:
    """What a tick made."""

    as_of: datetime
    rows: int
    with_value: int
    written: int
    """Rows that were not there before in this form."""
    problems: Mapping[str, str]
    """By model, what is wrong with it."""
    silent: tuple[str, ...]
    """Facilities whose feed fell silent."""
    without_value: tuple[str, ...]
    """Facilities for which nobody has a value of the headline."""
    visits: int
    dropped: Mapping[str, int]
    """By rule, over all facilities."""
    replay: bool
    latency_ms: Mapping[str, float]

    def metadata(self) -> dict[str, Any]:
        """As Dagster shows it."""
        return {
            "as_of": self.as_of.isoformat(),
            "dagster/row_count": self.rows,
            "rows_with_value": self.with_value,
            "rows_written": self.written,
            "visits": self.visits,
            "visits_dropped": dict(self.dropped),
            "problems": dict(self.problems),
            "silent_feeds": list(self.silent),
            "facilities_without_value": list(self.without_value),
            "replay": self.replay,
            "latency_ms": {name: round(ms, 1) for name, ms in self.latency_ms.items()},
        }


def require_tick(as_of: datetime) -> datetime:
    """The moment in UTC, if it is one of a tick: a whole quarter of an hour, and not ahead.

    Raises `PermanentError` otherwise.
    """
    if as_of.tzinfo is None or (as_of - _EPOCH) % EVERY:
        raise PermanentError(
            "a tick is at a whole quarter of an hour, with a zone",
            where="as_of",
            mend="Give a moment such as 2026-03-02T14:15:00+00:00.",
        )
    if as_of > datetime.now(UTC):
        raise PermanentError("the tick lies ahead", where="as_of", mend="Give a moment that is over.")
    return as_of.astimezone(UTC)


def latest_tick(now: datetime) -> datetime:
    """The last moment of a tick by `now` (with a zone), in UTC."""
    return now.astimezone(UTC) - (now - _EPOCH) % EVERY


def make_tick(
    warehouse: Warehouse,
    as_of: datetime,
    registry: Registry,
    *,
    default: Bootstrap,
    run_id: str,
    budget: timedelta = BUDGET,
    now: datetime | None = None,
) -> Tick:
    """Make the tick of `as_of` and keep it, one transaction under one lock; what it made.

    `default` is who is shown where nobody was assigned. Raises `PermanentError` without facilities, and, once
    its rows are kept, if not a single one has a value; `TransientError` if another tick is not done in time;
    else what `Warehouse.transaction` raises.
    """
    as_of, started = require_tick(as_of), now or datetime.now(UTC)
    store.ensure_months(warehouse, tables.wait_time_predictions, [as_of])
    with warehouse.transaction() as connection:
        warehouse.lock(connection, store.TICK_LOCK)
        made = _make(warehouse, connection, as_of, started, registry, default, run_id, budget)
    if not made.with_value:
        wrong = "; ".join(f"{name}: {what}" for name, what in made.problems.items())
        raise PermanentError(
            f"no model has a value for any facility at {as_of:%Y-%m-%d %H:%M} UTC"
            + (f" ({wrong})" if wrong else ""),
            where="wait_time_predictions",
            mend="See whether visits come in: medscore waits status. The rows say what each model found.",
        )
    return made


def _make(
    warehouse: Warehouse,
    connection: sa.Connection,
    as_of: datetime,
    started: datetime,
    registry: Registry,
    default: Bootstrap,
    run_id: str,
    budget: timedelta,
) -> Tick:
    replay = started - as_of > TIMELY
    zones = store.facility_zones(warehouse, connection)
    if not zones:
        raise PermanentError(
            "there is no facility", where="ed_facilities", mend="Import visits, or run: medscore demo visits"
        )
    visits = Visits.of(store.visits_known(warehouse, as_of, as_of - HISTORY, connection))
    snapshot = build_snapshot(visits, [(facility, as_of) for facility in zones], zones)
    asked = [model for model in registry.models if model.replayable or not replay]
    models, refused = locked(asked, store.known_fingerprints(warehouse, connection))
    fitted = store.fitted_parameters(warehouse, as_of, connection)
    load_breakers(warehouse, connection, models)
    runs = run_models(models, snapshot, fitted, budget=budget)
    runs += [_refused_run(model, refused, len(snapshot)) for model in asked if model not in models]

    rows = prediction_rows(snapshot, runs, as_of, run_id)
    problems = {failure.name: failure.reason for failure in registry.failures} | _problems(runs, snapshot)
    silent = silent_feeds(snapshot)
    _register(connection, models, runs, as_of)
    written = store.put_predictions(warehouse, connection, rows)
    tick = Tick(
        as_of=as_of,
        rows=rows.num_rows,
        with_value=sum(int(run.predictions.has_value().sum()) for run in runs),
        written=written,
        problems=problems,
        silent=silent,
        without_value=_without_value(snapshot, runs),
        visits=len(snapshot.arrived),
        dropped=sum((Counter(rules) for rules in snapshot.dropped.values()), Counter()),
        replay=replay,
        latency_ms={f"{run.name} {run.version}": run.latency_ms for run in runs},
    )
    store.put_tick(connection, _tick_row(tick, snapshot, started, run_id), _facility_rows(snapshot, silent))
    save_breakers(connection, models)
    if not replay:
        # A replay fills a gap of the record; what people read meanwhile, it cannot change.
        put_displays(warehouse, connection, as_of, list(zones), default)
    return tick


def prediction_rows(snapshot: Snapshot, runs: Sequence[ModelRun], as_of: datetime, run_id: str) -> pa.Table:
    """A row per facility, band, model and version, in the columns of `wait_time_predictions`."""
    parts = [_rows_of(snapshot, run) for run in runs]
    found = pa.concat_tables(parts)
    count = found.num_rows
    moment = pa.array([as_of] * count, store.UTC_TIME)
    return found.append_column("as_of", moment).append_column("run_id", pa.array([run_id] * count))


def _rows_of(snapshot: Snapshot, run: ModelRun) -> pa.Table:
    found = run.predictions
    bands, count = found.bands, found.p50.size
    raw = np.full(found.p50.shape, np.nan) if found.raw_p80 is None else found.raw_p80
    names = np.array([status.code for status in Status])
    messages = [
        found.messages.get((scene, band), "") for scene in range(len(snapshot)) for band in range(len(bands))
    ]
    return pa.table(
        {
            "facility_id": np.repeat(np.array(snapshot.facilities, dtype=object), len(bands)),
            "band": list(bands) * len(snapshot),
            "model": [run.name] * count,
            "version": [run.version] * count,
            "wait_seconds": pa.array(found.p50.ravel(), from_pandas=True),
            "p80_seconds": pa.array(found.p80.ravel(), from_pandas=True),
            "raw_p80_seconds": pa.array(raw.ravel(), from_pandas=True),
            "status": names[found.status.ravel()],
            "message": messages,
            "latency_ms": [run.latency_ms] * count,
        }
    )


def _refused_run(model: Model, refused: Sequence[Failure], scenes: int) -> ModelRun:
    """Rows that say why a model was not asked."""
    name, version = model.identity()
    reason = next(failure.reason for failure in refused if failure.name == name)
    nothing = Predictions.without(scenes, tuple(model.bands), Status.ERROR, reason)
    return ModelRun(name, version, "", nothing, 0.0, error=reason)


def _problems(runs: Sequence[ModelRun], snapshot: Snapshot) -> dict[str, str]:
    """By model and version what is wrong: with all of it, or with some facilities; the first reason."""
    found = {}
    for run in runs:
        wrong = np.isin(run.predictions.status, _WRONG)
        if run.error is not None:
            text = run.error
        elif run.version_changed:
            text = "it answered under another version than before"
        elif wrong.any():
            scenes = np.flatnonzero(wrong.any(axis=1))
            first = (int(scenes[0]), int(np.flatnonzero(wrong[scenes[0]])[0]))
            status = Status(run.predictions.status[first]).code
            reason = run.predictions.messages.get(first, "")
            text = f"{status} for {len(scenes)} of {len(snapshot)} facilities" + (
                f": {reason}" if reason else ""
            )
        else:
            continue
        found[f"{run.name} {run.version}"] = text
    return found


def silent_feeds(snapshot: Snapshot) -> tuple[str, ...]:
    """Facilities whose newest row is older than two hours at a time of day at which patients usually come.

    Usual is the mean of the three days before. A feed without a row in a day is silent whatever is usual, and
    so is one that tells of no arrivals for long: patients leave the queue and none joins it, so that the wait
    would be told too short.
    """
    found = []
    for scene, facility in enumerate(snapshot.facilities):
        newest = snapshot.newest_record[scene]
        if np.isnat(newest):
            found.append(facility)
            continue
        age = as_datetime(snapshot.as_of[scene]) - as_datetime(newest)
        arrived = snapshot.arrived[snapshot.offsets[scene] : snapshot.offsets[scene + 1]]
        without = timedelta(minutes=-float(arrived.max(initial=-SILENT_FOR_SURE / _MINUTE)))
        if (
            age > SILENT_FOR_SURE
            or (age > SILENT_AFTER and _usual_arrivals(arrived, SILENT_AFTER) >= USUAL_ARRIVALS)
            or (without > SILENT_AFTER and _usual_arrivals(arrived, without) >= MISSED_ARRIVALS)
        ):
            found.append(facility)
    return tuple(found)


def _usual_arrivals(arrived: npt.NDArray[np.float64], span: timedelta) -> float:
    """How many came on average in the same span of the three days before; minutes from the moment."""
    minutes, day = span / _MINUTE, timedelta(days=1) / _MINUTE
    came = [np.count_nonzero((arrived > -n * day - minutes) & (arrived <= -n * day)) for n in (1, 2, 3)]
    return float(np.mean(came))


def _without_value(snapshot: Snapshot, runs: Sequence[ModelRun]) -> tuple[str, ...]:
    there = np.zeros(len(snapshot), dtype=bool)
    for run in runs:
        if ALL_BANDS[0] in run.predictions.bands:
            place = run.predictions.bands.index(ALL_BANDS[0])
            there |= np.isin(run.predictions.status[:, place], HAS_VALUE)
    return tuple(name for name, has in zip(snapshot.facilities, there, strict=True) if not has)


def _register(
    connection: sa.Connection, models: Sequence[Model], runs: Sequence[ModelRun], at: datetime
) -> None:
    """Enter the versions that gave a value; the version of a service is what its answer said."""
    of_pair, of_name = {m.identity(): m for m in models}, {m.name: m for m in models}
    entered = []
    for run in runs:
        model = of_pair.get((run.name, run.version)) or of_name.get(run.name)
        if model is not None and run.fingerprint and run.predictions.has_value().any():
            entered.append(
                {
                    "model": run.name,
                    "version": run.version,
                    "fingerprint": run.fingerprint,
                    "parameters": model.parameters(),
                    "kind": _kind(model),
                    "baseline": model.baseline,
                    "first_seen_at": at,
                }
            )
    store.register_versions(connection, entered)


def _kind(model: Model) -> str:
    module = type(model).__module__
    package = __package__ or ""
    if module.startswith(f"{package}.http"):
        return "http"
    return "built_in" if module.startswith(package) else "plugin"


def _tick_row(tick: Tick, snapshot: Snapshot, started: datetime, run_id: str) -> dict[str, Any]:
    newest = snapshot.newest_record[~np.isnat(snapshot.newest_record)]
    return {
        "as_of": tick.as_of,
        "started_at": started,
        "finished_at": datetime.now(UTC),
        "input_newest": as_datetime(newest.max()) if len(newest) else None,
        "visits": tick.visits,
        "rows": tick.rows,
        "with_value": tick.with_value,
        "problems": dict(tick.problems),
        "replay": tick.replay,
        "run_id": run_id,
        "code_version": importlib.metadata.version("medscore"),
    }


def _facility_rows(snapshot: Snapshot, silent: Sequence[str]) -> list[dict[str, Any]]:
    waiting, treated = snapshot.waiting(), snapshot.completed() & np.isnan(snapshot.departed)
    scene, count = snapshot.scene(), len(snapshot)
    by_band = {
        band: np.bincount(scene[waiting & snapshot.in_band(band)], minlength=count) for band in ALL_BANDS
    }
    in_treatment = np.bincount(scene[treated], minlength=count)
    visits = np.diff(snapshot.offsets)
    return [
        {
            "as_of": as_datetime(snapshot.as_of[place]),
            "facility_id": facility,
            "visits": int(visits[place]),
            "waiting": {band: int(counts[place]) for band, counts in by_band.items()},
            "in_treatment": int(in_treatment[place]),
            "newest_record": None
            if np.isnat(snapshot.newest_record[place])
            else as_datetime(snapshot.newest_record[place]),
            "stale_input": facility in silent,
            "dropped": dict(snapshot.dropped[facility]),
        }
        for place, facility in enumerate(snapshot.facilities)
    ]
