"""The morning outreach list: from one day's discharges to ranked, explained scores.

Belongs here: what is done with every row of a day (superseded, quarantined, excluded, scored) and the
order of the list. Does not belong here: reading and writing (`assets.py`), probabilities (`scoring.py`),
reasons (`reasons.py`), tiers and actions (`policy.py`), who is eligible (`cohort.py`).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.contracts.contract import Checked, Matrix
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.cohort import check_context, eligibility
from medscore_assets.readmission.columns import Mask, as_mask
from medscore_assets.readmission.policy import TIERS, Policy
from medscore_assets.readmission.reasons import top_factors
from medscore_assets.readmission.scoring import ReadmissionModel
from resources.errors import ContractViolation


@dataclass(frozen=True, slots=True)
class Window:
    """The discharges of one list: from `start` until just before `end`, both with a zone."""

    score_date: date
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class OutreachList:
    """One day's result, as tables in the shape of the warehouse's.

    Every row of `discharge_events` in the window is in exactly one of the four counts:
    superseded, quarantined, excluded, scored.
    """

    scores: pa.Table
    exclusions: pa.Table
    quarantine: pa.Table
    counts: dict[str, int]
    admissions: int
    """Admissions that were known when it was made; more of them later may take somebody off."""
    exclusion_reasons: dict[str, int]
    tiers: dict[str, int]


class DayNotPublished(ContractViolation):
    """Too many rows of a day break the contract.

    Carries the quarantine, so that it is not lost, and how often each (field, reason) occurs.
    """

    def __init__(self, quarantined: int, rows: int, quarantine: pa.Table, window: Window) -> None:
        self.quarantine = quarantine
        self.broken_rules = Counter(
            zip(quarantine["field"].to_pylist(), quarantine["reason"].to_pylist(), strict=True)
        )
        worst = ", ".join(f"{f} {r} x{n}" for (f, r), n in self.broken_rules.most_common(5))
        super().__init__(
            f"{quarantined} of {rows} discharges break the contract, so nothing was published: {worst}",
            where=f"discharge_events from {window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M}",
            mend="See the table encounter_quarantine, correct the feed, and materialize the day again.",
        )


def build_list(
    events: pa.Table,
    admissions: pa.Table,
    *,
    window: Window,
    model: ReadmissionModel,
    model_version: int,
    policy: Policy,
    scored_at: datetime,
    explain: bool = True,
) -> OutreachList:
    """The list of one window.

    `events` holds the window's rows of `discharge_events` with a boolean column `superseded`;
    `admissions` the admissions of those patients until the window's end. With `explain=False` the
    reasons are left empty. Raises `DayNotPublished` when the policy's share of bad rows is passed.
    """
    current = _kept(events, ~as_mask(events["superseded"]))
    context = check_context(current)
    sound = _kept(current, context.valid)
    excluded_for = np.asarray(eligibility(sound, admissions, window.end, also_known=current))
    eligible = _kept(sound, excluded_for == "")
    encoded = READMISSION.encode(eligible)
    quarantine = pa.concat_tables(
        [_quarantine(current, context, window), _quarantine(eligible, encoded, window)]
    )
    quarantined = int((~context.valid).sum() + (~encoded.valid).sum())
    if policy.quarantine.stops(quarantined, len(current)):
        raise DayNotPublished(quarantined, len(current), quarantine, window)

    scores, tiers = _scores(
        _kept(eligible, encoded.valid),
        encoded.matrix[encoded.valid],
        window=window,
        model=model,
        model_version=model_version,
        policy=policy,
        scored_at=scored_at,
        explain=explain,
    )
    return OutreachList(
        scores=scores,
        exclusions=_exclusions(sound, excluded_for, window),
        quarantine=quarantine,
        counts={
            "events": len(events),
            "superseded": len(events) - len(current),
            "quarantined": quarantined,
            "excluded": int((excluded_for != "").sum()),
            "scored": len(scores),
        },
        admissions=len(admissions),
        exclusion_reasons=dict(Counter(excluded_for[excluded_for != ""].tolist())),
        tiers=tiers,
    )


def _kept(table: pa.Table, kept: Mask) -> pa.Table:
    """The rows under a mask; most days it holds for all, and nothing needs to be copied."""
    return table if kept.all() else table.filter(pa.array(kept))


def _quarantine(events: pa.Table, checked: Checked, window: Window) -> pa.Table:
    problems = list(checked.problems())
    rows = pa.array([p.row for p in problems], pa.int64())
    return pa.table(
        {
            "score_date": pa.repeat(pa.scalar(window.score_date, pa.date32()), len(problems)),
            "event_id": events["event_id"].take(rows).combine_chunks(),
            "field": pa.array([p.field for p in problems], pa.string()),
            "reason": pa.array([p.reason.label for p in problems], pa.string()),
            "encounter_id": events["encounter_id"].take(rows).combine_chunks(),
        }
    )


def _exclusions(events: pa.Table, excluded_for: npt.NDArray[Any], window: Window) -> pa.Table:
    gone = excluded_for != ""
    return pa.table(
        {
            "score_date": pa.repeat(pa.scalar(window.score_date, pa.date32()), int(gone.sum())),
            "encounter_id": events["encounter_id"].filter(pa.array(gone)).combine_chunks(),
            "reason": pa.array(excluded_for[gone].tolist(), pa.string()),
        }
    )


def _scores(
    eligible: pa.Table,
    matrix: Matrix,
    *,
    window: Window,
    model: ReadmissionModel,
    model_version: int,
    policy: Policy,
    scored_at: datetime,
    explain: bool,
) -> tuple[pa.Table, dict[str, int]]:
    explained = model.explain(matrix) if explain else None
    probabilities = model.score(matrix) if explained is None else explained.probabilities
    tiers = [TIERS[i] for i in policy.tier_indices(probabilities).tolist()]
    n = len(matrix)

    def same(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), n)

    reasons = same("[]", pa.string())
    if explained:
        reasons = pa.array(top_factors(matrix, explained, policy.top_factors), pa.string())
    actions = map(_actions_json, policy.recommended_actions(probabilities, matrix))
    ranked = _ranked(
        pa.table(
            {
                "encounter_id": eligible["encounter_id"],
                "patient_id": eligible["patient_id"],
                "hospital_id": eligible["hospital_id"],
                "discharged_at": eligible["discharged_at"],
                "readmission_probability": pa.array(probabilities, pa.float64()),
                "risk_tier": pa.array(tiers, pa.string()),
                "top_factors": reasons,
                "recommended_actions": pa.array(actions, pa.string()),
                "features_sha256": pa.array(features_sha256(matrix), pa.string()),
            }
        )
    )
    ranks = np.arange(1, n + 1)
    alike = {
        "score_date": same(window.score_date, pa.date32()),
        "rank": pa.array(ranks, pa.int64()),
        "within_capacity": pa.array(ranks <= policy.daily_calls, pa.bool_()),
        "disclaimer": same(policy.disclaimer, pa.string()),
        "model_name": same(model.name, pa.string()),
        "model_version": same(model_version, pa.int64()),
        "policy_version": same(policy.version, pa.string()),
        "policy_hash": same(policy.hash, pa.string()),
        "scored_at": same(scored_at, pa.timestamp("us", "UTC")),
    }
    columns = {**dict(zip(ranked.column_names, ranked.columns, strict=True)), **alike}
    return pa.table(columns), dict(Counter(tiers))


def _ranked(scores: pa.Table) -> pa.Table:
    """Highest probability first; ties by the earlier discharge, then by encounter."""
    keys = [
        ("readmission_probability", "descending"),
        ("discharged_at", "ascending"),
        ("encounter_id", "ascending"),
    ]
    return scores.take(pc.sort_indices(scores, sort_keys=keys))


def features_sha256(matrix: Matrix) -> list[str]:
    """Per encoded row its hash under this contract: equal inputs are recognised without reading them."""
    under_contract = hashlib.sha256(READMISSION.hash.encode())
    hashes = []
    for row in np.ascontiguousarray(matrix):
        of_row = under_contract.copy()
        of_row.update(row)
        hashes.append(of_row.hexdigest())
    return hashes


@functools.lru_cache(maxsize=1024)
def _actions_json(actions: tuple[str, ...]) -> str:
    """A list of actions as JSON; a day has a dozen different ones."""
    return json.dumps(actions)
