"""A period again, tick by tick: what every model would have said, and how that turned out.

Belongs here: the order of fits and ticks over a period, with what was on record at each. Does not belong
here: estimating (`models/`), attributing and measuring (`attribution.py`, `evaluation.py`), reading visits.

It runs the code of live ticks: the same snapshots, the same fits at 04:00, the same calls and checks. The
ticks between two fits are one batch of scenes. A fit and a snapshot get what was on record at their moment,
nothing later; so do models that correct others by outcomes. Before the period run only those whose outcomes
somebody learns from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.wait_times.attribution import attribute, localised
from medscore_assets.wait_times.clock import moment
from medscore_assets.wait_times.columns import decoded, moments
from medscore_assets.wait_times.model import Fitted, History, Model
from medscore_assets.wait_times.prediction import Status
from medscore_assets.wait_times.running import ModelRun, fit_models, run_models
from medscore_assets.wait_times.snapshot import HISTORY, Snapshot, build_snapshot
from medscore_assets.wait_times.visits import LONGEST_WAIT, NEVER, Ints, Visits
from resources.errors import PermanentError

EVERY = timedelta(minutes=15)
FIT_AT = time(4)
"""On the local clock, when few arrive."""
LEARNING_DAYS = 42
"""Days of visits that a fit gets."""
OUTCOME_DAYS = 15
"""Days of earlier predictions whose outcomes a fit gets: calibration looks back over fourteen."""
WARM_UP = timedelta(days=7)
"""Before the period, where any model corrects by outcomes: what it learns from runs and is not judged."""

Pair = tuple[str, str]

OUTCOME_COLUMNS = (
    *("model", "version", "facility", "band", "as_of", "arrival"),
    *("p50_seconds", "p80_seconds", "actual_seconds", "censored_at_seconds", "resolved_at"),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """A model that failed at a fit or over a batch of ticks."""

    at: datetime
    model: str
    version: str
    doing: str
    """`fit` or `predict`."""
    sentence: str


@dataclass(frozen=True)
class BacktestResult:
    """What was said over the period, and what came of it."""

    predictions: pa.Table
    """facility_id, band, model, version, as_of, wait_seconds, p80_seconds, status; ticks of the period."""
    attributed: pa.Table
    """As of `attribution.localised`: patients who arrived in the period."""
    faults: tuple[Fault, ...]
    skipped: tuple[str, ...]
    """Models that know the present only, as services do, and were not run."""
    seconds: Mapping[Pair, float]
    """Time on the clock that each model took, fits and predictions, over period and, if it ran, warm-up."""


@dataclass
class _Replay:
    """What is carried from batch to batch."""

    visits: Visits
    models: Sequence[Model]
    facilities: tuple[str, ...]
    zones: Mapping[str, str]
    days: int
    fitted: dict[Pair, Fitted] = field(default_factory=dict)
    said: list[tuple[datetime, pa.Table]] = field(default_factory=list)
    """End and predictions of each batch."""
    faults: list[Fault] = field(default_factory=list)
    seconds: dict[Pair, float] = field(default_factory=dict)

    def fit(self, at: datetime, models: Sequence[Model]) -> None:
        """Lets models learn from what was on record. What one learned before stays if it fails."""
        history = History(
            visits=on_record(self.visits, at, at - timedelta(days=self.days) - HISTORY),
            as_of=at,
            facilities=self.facilities,
            zones=self.zones,
            days=self.days,
            outcomes=self._outcomes(at),
            earlier=self.fitted,
        )
        for run in fit_models(models, history):
            self._note(at, (run.name, run.version), "fit", run.seconds, run.error)
            if run.parameters is not None:
                # A facility that a fit leaves out keeps what was learned of it before.
                earlier = self.fitted.get((run.name, run.version), {})
                self.fitted[run.name, run.version] = {**earlier, **run.parameters}

    def predict(self, ticks: Sequence[datetime], until: datetime, models: Sequence[Model]) -> None:
        """Models at some ticks, as one batch; `until` is the end of the batch."""
        scenes = [(facility, tick) for tick in ticks for facility in self.facilities]
        snapshot = build_snapshot(self.visits, scenes, self.zones)
        runs = run_models(models, snapshot, self.fitted)
        for run in runs:
            self._note(ticks[0], (run.name, run.version), "predict", run.latency_ms / 1000, run.error)
        self.said.append((until, prediction_rows(runs, snapshot)))

    def _outcomes(self, at: datetime) -> pa.Table | None:
        wanted = _learned_from(self.models)
        if not wanted:
            return None
        since = at - timedelta(days=OUTCOME_DAYS)
        recent = pa.concat_tables([_SAID.empty_table(), *(rows for end, rows in self.said if end > since)])
        recent = recent.filter(pc.is_in(decoded(recent["model"]), pa.array(sorted(wanted))))
        found = attribute(self.visits, recent.unify_dictionaries(), at, since)
        renamed = ["facility" if name == "facility_id" else name for name in found.column_names]
        return found.rename_columns(renamed).select(list(OUTCOME_COLUMNS))

    def _note(self, at: datetime, pair: Pair, doing: str, seconds: float, error: str | None) -> None:
        self.seconds[pair] = self.seconds.get(pair, 0.0) + seconds
        if error is not None:
            self.faults.append(Fault(at, *pair, doing, error))


def backtest(
    visits: Visits,
    models: Sequence[Model],
    facilities: Sequence[str],
    zones: Mapping[str, str],
    first: datetime,
    last: datetime,
    every: timedelta = EVERY,
    *,
    days: int = LEARNING_DAYS,
    warm_up: timedelta = WARM_UP,
    fit_zone: str | None = None,
    until: datetime | None = None,
) -> BacktestResult:
    """Predictions of the ticks `first <= tick < last` and the outcomes of who arrived then.

    `visits` holds all versions from `days` before the warm-up on; `zones` is facility -> IANA zone. Models
    are fitted at the start and at 04:00 in `fit_zone` (the first facility's, unless given) with the last
    `days` days. In the warm-up run those that learn from outcomes and those that they learn from; the others
    are fitted the last time before the period first. Outcomes are those on record at `until`: a day after the
    end, unless given. A calibrated model needs its base among the models. Raises PermanentError for an empty
    period, no facility, or a moment without a zone.
    """
    _demand(first < last and every > timedelta(0), "The period has no ticks", "Give a start before the end.")
    _demand(bool(facilities), "There is no facility", "Name at least one.")
    moment(first), moment(last)
    replay = _Replay(
        visits=visits,
        models=[model for model in models if model.replayable],
        facilities=tuple(facilities),
        zones=zones,
        days=days,
    )
    zone = ZoneInfo(fit_zone or zones[facilities[0]])
    # Whole ticks back, so that the warm-up keeps to the period's clock.
    start = first - -(-warm_up // every) * every
    for begin, end in _batches(start.astimezone(UTC), last.astimezone(UTC), zone):
        running = replay.models if end > first else _of_warm_up(replay.models)
        if not running:
            continue
        replay.fit(begin, running)
        ticks = _ticks(start, begin, end, every)
        if ticks:
            replay.predict(ticks, end, running)
    predictions = pa.concat_tables([_SAID.empty_table(), *(rows for end, rows in replay.said if end > first)])
    predictions = predictions.unify_dictionaries().combine_chunks()
    predictions = predictions.filter(pc.greater_equal(predictions["as_of"], _moment(first)))
    attributed = attribute(visits, predictions, until or last + LONGEST_WAIT, first)
    attributed = attributed.filter(pc.less(attributed["arrival"], _moment(last)))
    return BacktestResult(
        predictions=predictions,
        attributed=localised(attributed, zones),
        faults=tuple(replay.faults),
        skipped=tuple(model.identity()[0] for model in models if not model.replayable),
        seconds=replay.seconds,
    )


def _learned_from(models: Sequence[Model]) -> set[str]:
    """Names of the models whose outcomes some model learns from."""
    return {name for model in models for name, _ in model.outcomes_of()}


def _of_warm_up(models: Sequence[Model]) -> list[Model]:
    """The models whose outcomes some model learns from, and those that do so."""
    wanted = _learned_from(models)
    return [model for model in models if model.name in wanted or model.outcomes_of()]


def prediction_rows(runs: Sequence[ModelRun], snapshot: Snapshot) -> pa.Table:
    """One row per scene, band and model, with the columns that `attribution.attribute` reads."""
    facilities = pa.array(snapshot.facilities).dictionary_encode()
    parts = [_SAID.empty_table()]
    for run in runs:
        said = run.predictions
        scenes, bands = said.p50.shape
        scene = np.repeat(np.arange(scenes), bands)
        # Not at import: for a list Arrow imports pandas, which Dagster's processes do without.
        statuses = pa.array([status.code for status in Status])
        columns = {
            "facility_id": facilities.take(pa.array(scene)),
            "band": _named(np.tile(np.arange(bands), scenes), said.bands),
            "model": _named(np.zeros(len(scene)), (run.name,)),
            "version": _named(np.zeros(len(scene)), (run.version,)),
            "as_of": moments(snapshot.as_of.view(np.int64)[scene]),
            "wait_seconds": pa.array(said.p50.ravel(), from_pandas=True),
            "p80_seconds": pa.array(said.p80.ravel(), from_pandas=True),
            "status": pa.DictionaryArray.from_arrays(said.status.ravel().astype(np.int32), statuses),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def on_record(visits: Visits, at: datetime, since: datetime) -> Visits:
    """The versions recorded by `at` of visits that began from `since` on, as they stood then.

    Versions that were superseded later are current in it, and events that lie after `at` are unknown.
    """
    now, begin = (int(moment(when).view(np.int64)) for when in (at, since))
    rows = _began(visits, begin, now)
    rows = rows[visits.recorded_at.view(np.int64)[rows] <= now]

    def known(times: Any) -> Any:
        whole = times.view(np.int64)[rows]
        return np.where(whole > now, NEVER, whole).view("datetime64[us]")

    names = ("superseded_at", "triage_at", "pia_at", "left_at", "disposition_at")
    of_rows = ("facility", "visit", "recorded_at", "arrival", "ctas", "scheduled", "sorted_by")
    facility = visits.facility[rows]
    return replace(
        visits,
        **{name: known(getattr(visits, name)) for name in names},
        **{name: getattr(visits, name)[rows] for name in (*of_rows, "overlapping", "twins")},
        visit_ids=visits.visit_ids.take(pa.array(rows)),
        starts=np.searchsorted(facility, np.arange(len(visits.facilities) + 1)),
    )


def _began(visits: Visits, since: int, until: int) -> Ints:
    """The versions of visits that began from one microsecond to another, in their order."""
    parts = [np.zeros(0, dtype=np.int64)]
    for start, stop in itertools.pairwise(visits.starts.tolist()):
        keys = visits.sorted_by[start:stop]
        first, after = np.searchsorted(keys, since), np.searchsorted(keys, until, side="right")
        parts.append(np.arange(start + first, start + after))
    return np.concatenate(parts)


_TEXTS = pa.dictionary(pa.int32(), pa.string())
_SAID = pa.schema(
    [
        *((name, _TEXTS) for name in ("facility_id", "band", "model", "version")),
        ("as_of", pa.timestamp("us", tz="UTC")),
        ("wait_seconds", pa.float64()),
        ("p80_seconds", pa.float64()),
        ("status", _TEXTS),
    ]
)


def _batches(start: datetime, last: datetime, zone: ZoneInfo) -> Iterator[tuple[datetime, datetime]]:
    """Spans from one fit to the next, in UTC."""
    begin = start
    while begin < last:
        end = min(_next_fit(begin, zone), last)
        yield begin, end
        begin = end


def _next_fit(after: datetime, zone: ZoneInfo) -> datetime:
    day = after.astimezone(zone).date()
    while True:
        fit = datetime.combine(day, FIT_AT, tzinfo=zone).astimezone(UTC)
        if fit > after:
            return fit
        day += timedelta(days=1)


def _ticks(start: datetime, begin: datetime, end: datetime, every: timedelta) -> list[datetime]:
    """The ticks from `begin` until before `end`."""
    number = -(-(begin - start) // every)
    ticks = []
    while (tick := (start.astimezone(UTC) + number * every)) < end:
        ticks.append(tick)
        number += 1
    return ticks


def _named(number: Any, names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.asarray(number, dtype=np.int32), pa.array(names, pa.string()))


def _moment(when: datetime) -> pa.Scalar:
    return pa.scalar(when.astimezone(UTC), pa.timestamp("us", tz="UTC"))


def _demand(holds: bool, what: str, mend: str) -> None:
    if not holds:
        raise PermanentError(what, where="backtest", mend=mend)
