"""Sums to figures: the cells of every cube, and the flow from all members to those that were scored.

Belongs here: means, shares, intervals, observed to expected, and the proof that everything adds up.
Does not belong here: counting (`accumulate.py`), withholding small cells (`suppression.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medscore_assets.readmission.population.dimensions import ALL, CUBES, DIMENSIONS, rank
from medscore_assets.readmission.population.partial import RISK_UNITS, SUMS, Partial
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd

KEY = ("cube", *DIMENSIONS)
COUNTS = (
    "members",
    "members_scored",
    "members_invalid",
    "index_discharges",
    "index_discharges_scored",
    "high_risk",
    "very_high_risk",
    "matured",
    "observed_readmissions",
)
MEASURES = (
    "mean_risk",
    "mean_risk_low",
    "mean_risk_high",
    "high_risk_share",
    "very_high_risk_share",
    "expected_readmissions",
    "expected_matured",
    "observed_to_expected",
    "oe_low",
    "oe_high",
    "member_mean_risk",
)
FIGURES = (*COUNTS, *MEASURES)

NORMAL_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""

Values = npt.NDArray[np.float64]


def cells(partial: Partial) -> pd.DataFrame:
    """Every cell of every cube: `KEY` as texts, `COUNTS` as int64, `MEASURES` as float64.

    A measure is NaN where its denominator is 0. Cubes come in the order of `CUBES`, cells in the natural
    order of their dimensions' members.
    """
    import pandas as pd

    keys: list[tuple[str, ...]] = []
    sums: list[npt.NDArray[np.int64]] = []
    for cube, dimensions in CUBES.items():
        found = partial.cube(cube)
        for key in sorted(found, key=lambda k: [rank(*pair) for pair in zip(dimensions, k, strict=True)]):
            named = dict(zip(dimensions, key, strict=True))
            keys.append((cube, *(named.get(dimension, ALL) for dimension in DIMENSIONS)))
            sums.append(found[key])
    summed = np.array(sums, dtype=np.int64).reshape(-1, len(SUMS))
    columns: dict[str, Any] = dict(zip(KEY, zip(*keys, strict=True), strict=True)) if keys else {}
    columns = {name: list(columns.get(name, ())) for name in KEY}
    return pd.DataFrame({**columns, **figures(dict(zip(SUMS, summed.T, strict=True)))})


def figures(sums: dict[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[Any]]:
    """`FIGURES` of groups whose sums are given by name, each int64 (n,)."""
    risk, risk_matured, member_risk = (
        sums[name] / RISK_UNITS for name in ("risk", "risk_matured", "member_risk")
    )
    scored, observed = sums["index_discharges_scored"], sums["observed_readmissions"]
    mean = _ratio(risk, scored)
    low, high = _mean_interval(mean, risk, sums["risk_squared"] / RISK_UNITS, scored)
    found = {name: sums[name] for name in COUNTS if name in sums}
    found["members_invalid"] = sums["members"] - sums["members_scored"]
    observed_low, observed_high = poisson_interval(observed)
    measures = {
        "mean_risk": mean,
        "mean_risk_low": low,
        "mean_risk_high": high,
        "high_risk_share": _ratio(sums["high_risk"], scored),
        "very_high_risk_share": _ratio(sums["very_high_risk"], scored),
        "expected_readmissions": risk,
        "expected_matured": risk_matured,
        "observed_to_expected": _ratio(observed, risk_matured),
        "oe_low": _ratio(observed_low, risk_matured),
        "oe_high": _ratio(observed_high, risk_matured),
        "member_mean_risk": _ratio(member_risk, sums["members_scored"]),
    }
    return {**{name: found[name] for name in COUNTS}, **measures}


def poisson_interval(observed: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """The exact (Garwood) 95 % interval of a Poisson mean, by the number of events."""
    from scipy.special import gammaincinv

    events = observed.astype(np.float64)
    low = np.where(events > 0, gammaincinv(np.maximum(events, 1.0), 0.025), 0.0)
    return low, gammaincinv(events + 1.0, 0.975)


def _mean_interval(mean: Values, total: Values, squares: Values, n: Any) -> tuple[Values, Values]:
    """The normal 95 % interval of a mean within 0 to 1; NaN under two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.maximum(squares - total * mean, 0.0) / (n - 1)
        half = NORMAL_95 * np.sqrt(variance / n)
    enough = n >= 2
    return (
        np.where(enough, np.clip(mean - half, 0.0, 1.0), math.nan),
        np.where(enough, np.clip(mean + half, 0.0, 1.0), math.nan),
    )


def _ratio(part: Any, whole: Any) -> Values:
    """NaN where the whole is 0."""
    defined = whole != 0
    return np.where(defined, part / np.where(defined, whole, 1), math.nan)


def exclusions(partial: Partial) -> list[dict[str, Any]]:
    """The flow, `reason`, `field` and `members`, the most members first."""
    ordered = sorted(partial.exclusions.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"reason": reason, "field": field, "members": n} for (reason, field), n in ordered]


def require_reconciled(partial: Partial, rows: int) -> None:
    """Raises `PermanentError` unless every cube, and the flow, add up to `rows` members."""
    wrong = [
        f"{name} adds up to {found:,}"
        for name, found in {
            "what was read": partial.rows,
            **{cube: sum(int(s[0]) for s in partial.cube(cube).values()) for cube in CUBES},
            "the flow": _flow(partial),
        }.items()
        if found != rows
    ]
    if wrong:
        raise PermanentError(
            f"of {rows:,} members {'; '.join(wrong)}",
            where="population_risk_summary",
            mend="Do not publish this quarter; report the fault with the version of MedScore.",
        )


def _flow(partial: Partial) -> int:
    scored = sum(int(s[SUMS.index("index_discharges_scored")]) for s in partial.cube("total").values())
    return scored + sum(partial.exclusions.values())
