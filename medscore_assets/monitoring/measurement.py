"""One measured value with the verdict on it, as it is kept and shown.

Belongs here: the shape of a row of `monitoring_measures`, and drift put into that shape.
Does not belong here: how values are computed (`drift.py`, `metrics.py`) and the limits (`thresholds.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medscore_assets.monitoring.drift import Reference, expected_performance, missing_rates, psi
from medscore_assets.monitoring.thresholds import NOT_JUDGED, State, Thresholds

SCORE, TIER, ALL = "score", "tier", "all"
"""Subjects beside the names of features, tiers and arms."""

DRIFT = ("psi", "missing_rate", "tier_share", "expected_auroc", "expected_brier", "expected_rate")
"""What is measured on scores alone, over the latest days."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value, its 95 % interval where it has one, and what the thresholds say of it."""

    model_name: str
    model_version: int
    measure: str
    subject: str
    period_start: date
    period_end: date
    n: int
    events: int | None
    value: float | None
    lower: float | None
    upper: float | None
    state: State


_TYPES: Mapping[str, pa.DataType] = {
    "str": pa.string(),
    "State": pa.string(),
    "date": pa.date32(),
    "int": pa.int64(),
    "int | None": pa.int64(),
    "float | None": pa.float64(),
}


def as_table(measurements: Iterable[Measurement], measured_at: datetime) -> pa.Table:
    """Rows in the shape of `monitoring_measures`; `measured_at` has a zone."""
    schema = pa.schema([(f.name, _TYPES[str(f.type)]) for f in fields(Measurement)])
    table = pa.Table.from_pylist([asdict(m) for m in measurements], schema=schema)
    return table.append_column(
        "measured_at", pa.repeat(pa.scalar(measured_at, pa.timestamp("us", "UTC")), len(table))
    )


def latest_verdicts(measurements: Iterable[Measurement]) -> list[Measurement]:
    """What counts now of one model's measurements: the latest windows, and the latest month judged.

    Drift is that of the windows with the newest end; performance that of the newest month in which
    anything could be judged. Older ones are history. What could not be judged is left out.
    """
    judged = [m for m in measurements if m.state != NOT_JUDGED]
    drift = [m for m in judged if m.measure in DRIFT]
    outcomes = [m for m in judged if m.measure not in DRIFT]
    newest = max((m.period_end for m in drift), default=date.min)
    month = max((m.period_end for m in outcomes), default=date.min)
    return [m for m in drift if m.period_end == newest] + [m for m in outcomes if m.period_end == month]


@dataclass(frozen=True, slots=True)
class Window:
    """What was scored over some days, both included.

    `features` holds the codes per feature of everybody listed, (n,) each; `scores`, (m,), those of one
    model, and `tiers`, positions in `tier_names`, those of one policy among them. `missing` counts per
    field the `rows` of the feed that lack it, `reference_missing` those of `reference_rows` at training.
    """

    model_name: str
    model_version: int
    first: date
    last: date
    features: Mapping[str, npt.NDArray[np.float32]]
    scores: npt.NDArray[np.float64]
    tiers: npt.NDArray[np.int64]
    tier_names: tuple[str, ...]
    reference_tiers: npt.NDArray[np.int64]
    """Tiers, by the same policy, of the reference's score quantiles."""
    missing: Mapping[str, int]
    rows: int
    reference_missing: Mapping[str, int]
    reference_rows: int


def drift_measurements(
    window: Window, reference: Reference | None, thresholds: Thresholds
) -> list[Measurement]:
    """All that is measured of a window. Without a reference nothing is judged that needs one."""
    shares = np.bincount(window.tiers, minlength=len(window.tier_names))
    at_training = np.bincount(window.reference_tiers, minlength=len(window.tier_names))
    found = []
    for subject, value, n in _stability(window, reference, shares, at_training):
        state = NOT_JUDGED if reference is None else thresholds.judge("psi", value, n=n)
        found.append(_measured(window, "psi", subject, n, value, state))
    found += _missing(window, thresholds)
    found += _tier_shares(window, shares, at_training if reference else None, thresholds)
    found += _promised(window, reference, thresholds)
    return found


def _stability(
    window: Window,
    reference: Reference | None,
    shares: npt.NDArray[np.int64],
    at_training: npt.NDArray[np.int64],
) -> Iterable[tuple[str, float | None, int]]:
    for name, codes in window.features.items():
        bins = reference.features.get(name) if reference else None
        yield name, psi(bins.counts, bins.count(codes)) if bins else None, len(codes)
    m = len(window.scores)
    score = psi(reference.score.counts, reference.score.count(window.scores)) if reference else None
    yield SCORE, score, m
    # The quantiles stand for as many scores as there were, so that an empty tier weighs as it should.
    weight = reference.n / max(1, int(at_training.sum())) if reference else 1.0
    yield TIER, psi(at_training * weight, shares) if reference else None, len(window.tiers)


def _missing(window: Window, thresholds: Thresholds) -> Iterable[Measurement]:
    rates = missing_rates(window.missing, window.rows)
    before = missing_rates(window.reference_missing, window.reference_rows)
    for name, rate in rates.items():
        base = before.get(name)
        rise = None if rate is None or base is None else rate - base
        state = thresholds.judge("missing_rate_rise", rise, n=window.rows)
        yield _measured(window, "missing_rate", name, window.rows, rate, state)


def _tier_shares(
    window: Window,
    shares: npt.NDArray[np.int64],
    at_training: npt.NDArray[np.int64] | None,
    thresholds: Thresholds,
) -> Iterable[Measurement]:
    n = len(window.tiers)
    for position, tier in enumerate(window.tier_names):
        share = float(shares[position] / n) if n else None
        change = (
            None
            if share is None or at_training is None
            else abs(share - float(at_training[position] / at_training.sum()))
        )
        state = thresholds.judge("tier_share_change", change, n=n)
        yield _measured(window, "tier_share", tier, n, share, state)


def _promised(window: Window, reference: Reference | None, thresholds: Thresholds) -> Iterable[Measurement]:
    expected = expected_performance(window.scores)
    base = expected_performance(reference.score_quantiles).auroc if reference else None
    fall = None if base is None or expected.auroc is None else base - expected.auroc
    n = expected.n
    state = thresholds.judge("expected_auroc_fall", fall, n=n)
    yield _measured(window, "expected_auroc", ALL, n, expected.auroc, state)
    yield _measured(window, "expected_brier", ALL, n, expected.brier, NOT_JUDGED)
    yield _measured(window, "expected_rate", ALL, n, expected.events / n if n else None, NOT_JUDGED)


def _measured(
    window: Window, measure: str, subject: str, n: int, value: float | None, state: State
) -> Measurement:
    return Measurement(
        window.model_name,
        window.model_version,
        measure,
        subject,
        window.first,
        window.last,
        n=n,
        events=None,
        value=value,
        lower=None,
        upper=None,
        state=state,
    )
