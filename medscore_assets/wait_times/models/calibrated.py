"""Another model with its upper level corrected, so that it holds for as many patients as it says.

Belongs here: the correction from outcomes of the other model's earlier predictions. Does not belong here:
attributing outcomes to predictions (`attribution.py`) and the other model.

Rolling split-conformal: to what the base posts (its p80, else its p50) comes the quantile, at the
finite-sample rank, of the differences between what patients waited and what the base had posted to them. They
are the patients of the last days whose outcome was on record at the fit. Who left unseen has none. Who still
waits has waited for at least as long as so far: if that is above the correction it counts, and left out it
would make the correction too small.

A window of days lags where a department changes, and what it gets wrong is never made up for. So the level
that is aimed at moves each day by what the model's own posts exceeded or fell short of the level, over the
last four weeks (adaptive conformal inference, Gibbs and Candès 2021, with daily feedback that does not fade).
Outcomes do not reach back that far: the counts of each day are kept with the correction, from fit to fit.

Before there is a correction the answer is the typical wait alone, even where the base has a p80: nothing
shows yet that it holds. Who was told no p80 counts neither for nor against the model's own posts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.wait_times.clock import DAY_US, moment
from medscore_assets.wait_times.columns import decoded, numbers, times
from medscore_assets.wait_times.model import EVERYWHERE, BatchModel, Fitted, History, Identity, Model
from medscore_assets.wait_times.models.once import once
from medscore_assets.wait_times.prediction import LONGEST_SECONDS, Predictions, Status
from medscore_assets.wait_times.snapshot import Snapshot

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LEVEL = 0.8
FEWEST = 50
"""Outcomes for a correction; with fewer the wider group of patients serves."""
DAYS = 14
"""Of outcomes. Patients of a day resemble each other: the fewer days, the more a correction falls short."""
FEEDBACK = 0.3
"""How far the level that is aimed at moves for a day, relative to what its posts fell short of the level."""
FEEDBACK_DAYS = 28
"""So long a day counts."""
LEVELS_AIMED = (0.5, 0.95)
"""The lowest and the highest level that feedback may lead to."""
_ROUNDING = 1e-9
"""So that 100 times 0.9 is not above 90."""
ALL_BANDS_KEY = "*"
"""The key of a correction for all bands together."""


class Calibrated(BatchModel):
    """The base's predictions with p80 moved by a correction per facility and band, fitted daily."""

    version = "1.1.0"

    def __init__(self, base: Model, level: float = LEVEL, days: int = DAYS, feedback: float = FEEDBACK):
        """Corrects with the outcomes of `days` days; the base has to run as well, for there to be any."""
        self.name = f"{base.name}_calibrated"
        self.bands = base.bands
        self.time_limit = base.time_limit
        self.level = level
        self.days = days
        self.feedback = feedback
        self.base = f"{base.name} {base.version} {base.fingerprint()}"
        self._base = base

    def fit(self, history: History) -> dict[str, dict[str, Any]]:
        """Per facility ("" for all together) `base`, what the base has learned, and by band the rest.

        `offsets` are the corrections in seconds, `patients` those behind each, `posts` per day what
        `_posts` gives.
        """
        base = self._base
        learned_by_base = once(
            history, ("fit", *base.identity(), base.fingerprint()), lambda: base.fit(history)
        )
        found: dict[str, dict[str, Any]] = {
            facility: {"base": own} for facility, own in (learned_by_base or {}).items()
        }
        for facility, band, learned in self._corrections(history):
            own = found.setdefault(facility, {})
            for name, value in learned.items():
                own.setdefault(name, {})[band] = value
        return found

    def outcomes_of(self) -> tuple[Identity, ...]:
        """The base's, to correct it, and its own, to see whether the corrections hold."""
        return self._base.identity(), self.identity()

    def _corrections(self, history: History) -> Iterator[tuple[str, str, dict[str, Any]]]:
        if history.outcomes is None:
            return
        of_base = _Residuals.of(history.outcomes, self._base.identity(), history, self.days)
        of_own = _Residuals.of(_with_p80(history.outcomes), self.identity(), history, self.days)
        earlier = history.earlier.get(self.identity(), {})
        for facility in (EVERYWHERE, *history.facilities):
            for band in (ALL_BANDS_KEY, *self.bands):
                before = earlier.get(facility, {}).get("posts", {}).get(band, [])
                posts = _posts(of_own.group(facility, band), before, history.as_of, self.days)
                found: dict[str, Any] = {"posts": posts} if posts else {}
                group = of_base.group(facility, band)
                offset = conformal_offset(group.residual, group.ended, self._aimed(posts))
                if offset is not None:
                    found |= {"offsets": offset, "patients": len(group.residual)}
                if found:
                    yield facility, band, found

    def _aimed(self, posts: Sequence[Sequence[int]]) -> float:
        """The level to aim at after the own posts of these days."""
        told, missed = (sum(day[place] for day in posts) for place in (1, 2))
        if told < FEWEST:
            return self.level
        short = len(posts) * (missed / told - (1 - self.level))
        return float(np.clip(self.level + self.feedback * short, *LEVELS_AIMED))

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        """The base's predictions; a fall-back, without p80, where there is no correction yet."""
        own = {facility: found["base"] for facility, found in fitted.items() if "base" in found}
        found = self._base.predict_all(snapshot, own)
        found.raw_p80 = found.p80.copy()
        posted = np.where(np.isnan(found.p80), found.p50, found.p80)
        offset = np.full(posted.shape, np.nan)
        for scene, facility in enumerate(snapshot.facilities):
            for place, band in enumerate(found.bands):
                offset[scene, place] = _offset(fitted, facility, band)
        corrected = np.clip(posted + offset, found.p50, LONGEST_SECONDS)
        found.p80 = np.where(np.isnan(offset), np.nan, corrected)
        uncorrected = found.has_value() & np.isnan(offset)
        found.status[uncorrected] = Status.FALLBACK
        for scene, place in np.argwhere(uncorrected).tolist():
            found.messages[scene, place] = f"not calibrated: fewer than {FEWEST} outcomes"
        return found


def calibrated(base: Model, level: float = LEVEL) -> Calibrated:
    """The base with a rolling calibration around it, as `<base>_calibrated`."""
    return Calibrated(base, level)


def conformal_offset(residual: Numbers, ended: Mask, level: float) -> float | None:
    """The correction in seconds; None with fewer than `FEWEST` who were seen.

    `residual` (n,) is what patients waited more than was posted to them; where not `ended`, so far. A patient
    who still waits counts where the wait so far is above the correction already, else not at all.
    """
    done = np.sort(residual[ended])
    if len(done) < FEWEST:
        return None
    waiting = np.sort(residual[~ended])
    # At each candidate: those at or below it, and those above it as far as is known.
    above = len(waiting) - np.searchsorted(waiting, done, side="right")
    patients = len(done) + above
    enough = np.arange(1, len(done) + 1) >= np.ceil((patients + 1) * level - _ROUNDING)
    return float(done[int(np.argmax(enough)) if enough.any() else -1])


@dataclass(frozen=True)
class _Residuals:
    """What patients waited more than a model had posted to them, and in which group; shape (patients,)."""

    names: Mapping[str, int]
    """The numbers of facilities and bands."""
    facility: npt.NDArray[np.int64]
    band: npt.NDArray[np.int64]
    residual: Numbers
    ended: Mask
    day: npt.NDArray[np.int64]
    """Of arrival in UTC, in days since 1970."""

    def group(self, facility: str, band: str) -> Self:
        """Those of a facility's band; all of either by their keys for all."""
        chosen = np.ones(len(self.residual), dtype=bool)
        if facility != EVERYWHERE:
            chosen &= self.facility == self.names.get(facility, -1)
        if band != ALL_BANDS_KEY:
            chosen &= self.band == self.names.get(band, -1)
        return replace(
            self,
            facility=self.facility[chosen],
            band=self.band[chosen],
            residual=self.residual[chosen],
            ended=self.ended[chosen],
            day=self.day[chosen],
        )

    @classmethod
    def of(cls, outcomes: pa.Table, model: tuple[str, str], history: History, days: int) -> Self:
        """Of a model's outcomes of the last days; patients who left unseen are left out."""
        since = pa.scalar(history.as_of - timedelta(days=days), pa.timestamp("us", "UTC"))
        name, version = (decoded(outcomes[column]) for column in ("model", "version"))
        kept = pc.and_(pc.equal(name, model[0]), pc.equal(version, model[1]))
        rows = outcomes.filter(pc.and_(kept, pc.greater_equal(outcomes["arrival"], since)))
        actual, so_far = numbers(rows["actual_seconds"]), numbers(rows["censored_at_seconds"])
        waiting = rows["resolved_at"].is_null().to_numpy()
        p50, p80 = numbers(rows["p50_seconds"]), numbers(rows["p80_seconds"])
        residual = np.where(waiting, so_far, actual) - np.where(np.isnan(p80), p50, p80)
        texts = sorted(
            {text for column in ("facility", "band") for text in pc.unique(rows[column]).to_pylist()}
        )
        facility, band = (
            pc.index_in(decoded(rows[column]), pa.array(texts, pa.string())).to_numpy().astype(np.int64)
            for column in ("facility", "band")
        )
        known = ~np.isnan(residual)
        numbered = {text: number for number, text in enumerate(texts)}
        day = times(rows["arrival"]) // DAY_US
        return cls(numbered, facility[known], band[known], residual[known], ~waiting[known], day[known])


def _posts(own: _Residuals, before: Sequence[Sequence[int]], as_of: datetime, days: int) -> list[list[int]]:
    """Per day of arrival the day, how many patients were told a wait, and to how many it was too short.

    `before` is the same of the fit before: it holds for days that outcomes of the last `days` do not cover
    wholly. Who still waits is a miss from when the wait exceeds what was posted, and unknown until then.
    """
    missed = own.residual > 0
    told = own.ended | missed
    number, place = np.unique(own.day[told], return_inverse=True)
    counts = (np.bincount(place), np.bincount(place, weights=missed[told]).astype(np.int64))
    found = {int(day): [int(day), int(n), int(m)] for day, n, m in zip(number, *counts, strict=True)}
    now = int(moment(as_of).view(np.int64))
    covered = -(-(now - days * DAY_US) // DAY_US)
    found |= {day[0]: list(day) for day in before if day[0] < covered}
    return [found[day] for day in sorted(found) if day > now // DAY_US - FEEDBACK_DAYS]


def _with_p80(outcomes: pa.Table) -> pa.Table:
    return outcomes.filter(pc.is_valid(outcomes["p80_seconds"]))


def _offset(fitted: Fitted, facility: str, band: str) -> float:
    """The narrowest group with a correction: the band at the facility, the facility, everybody; else NaN."""
    for place, group in ((facility, band), (facility, ALL_BANDS_KEY), (EVERYWHERE, ALL_BANDS_KEY)):
        offsets = fitted.get(place, {}).get("offsets", {})
        if group in offsets:
            return float(offsets[group])
    return float("nan")
