"""Small cells: what of a quarter's cells may be published.

Belongs here: which counts of people are sensitive, which figure gives which count away, how figures are
rounded, and the published cells. Does not belong here: the search for what must be hidden with them
(`suppression_pattern.py`), and what cells mean (`summary.py`).

The rule is that of the US Centers for Medicare & Medicaid Services: no count of 1 to 10 people is shown, nor
a figure from which one can be worked out. Zero may be shown. For "worked out" the standard of statistical
disclosure control holds (Hundepool et al., Statistical Disclosure Control, Wiley 2012, ch. 4): a reader who
knows every published figure, the margins, that counts are whole and not negative, and how measures hang
together, is left with an interval for each small count. Its upper end must lie beyond the threshold,
so that the reader cannot even say that the count is a small one; and it must be at least `LIMIT` wide, so
that its lower end says nothing. That is a protection level of the threshold itself.

Limits: quarters are protected one by one, since members come and go between them; a change since the last
quarter may be worked out from published figures only. The interval of a mean risk is taken as a statement
on that cell: it is rounded so coarsely that differences of squares between cells say nothing. Readers who
hold part of the data, such as a hospital its own patients, know more than is assumed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medscore_assets.readmission.population.dimensions import CUBES, UNKNOWN
from medscore_assets.readmission.population.summary import COUNTS, FIGURES, KEY, NORMAL_95
from medscore_assets.readmission.population.suppression_network import Network
from medscore_assets.readmission.population.suppression_pattern import Pattern, Sensitive
from medscore_assets.readmission.population.suppression_people import COLUMNS, Tiers, row
from resources.errors import PermanentError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LIMIT", "Tiers", "protect"]

LIMIT = 10
"""The greatest count of people that is small."""

SENSITIVE = (
    Sensitive("members", row(members=1), hide="members"),
    Sensitive("scored", row(members_scored=1), hide="members_scored"),
    Sensitive("not scored", row(members=1, members_scored=-1), hide="members_scored"),
    Sensitive("index discharges", row(index_discharges=1), hide="index_discharges"),
    Sensitive("scored discharges", row(index_discharges_scored=1), hide="index_discharges_scored"),
    Sensitive(
        "discharges not scored",
        row(index_discharges=1, index_discharges_scored=-1),
        hide="index_discharges",
    ),
    Sensitive("without discharge", row(members=1, index_discharges=-1), hide="index_discharges"),
    Sensitive(
        "scored without discharge",
        row(members_scored=1, index_discharges_scored=-1),
        hide="members_scored",
    ),
    Sensitive(
        "neither scored nor discharged",
        row(members=1, members_scored=-1, index_discharges=-1, index_discharges_scored=1),
        hide="index_discharges",
    ),
    Sensitive("high", row(high_risk=1), hide="high_risk"),
    Sensitive("below high", row(index_discharges_scored=1, high_risk=-1), hide="high_risk"),
    Sensitive("very high", row(very_high_risk=1), hide="very_high_risk"),
    Sensitive("below very high", row(index_discharges_scored=1, very_high_risk=-1), hide="very_high_risk"),
    Sensitive("high, not very high", row(high_risk=1, very_high_risk=-1), hide="very_high_risk"),
    Sensitive("matured", row(matured=1), hide="matured"),
    Sensitive("not matured", row(index_discharges_scored=1, matured=-1), hide="matured"),
    Sensitive("readmitted", row(observed_readmissions=1), hide="observed_readmissions"),
    Sensitive("not readmitted", row(matured=1, observed_readmissions=-1), hide="observed_readmissions"),
)
"""Every count of people that published columns make known. Invalid members are those not scored."""

SHOWN_WITH = {
    "mean_risk": ("index_discharges_scored",),  # times n it is expected_readmissions
    "mean_risk_low": ("index_discharges_scored",),  # standard deviation over the root of n
    "mean_risk_high": ("index_discharges_scored",),
    "high_risk_share": ("index_discharges_scored", "high_risk"),
    "very_high_risk_share": ("index_discharges_scored", "very_high_risk"),
    "expected_readmissions": ("index_discharges_scored",),  # over mean_risk it is n
    "expected_matured": ("matured",),  # over a mean risk it is about the count
    "observed_to_expected": ("matured", "observed_readmissions"),  # times expected it is the count
    "oe_low": ("matured", "observed_readmissions"),  # with oe_high it fixes the count
    "oe_high": ("matured", "observed_readmissions"),
    "member_mean_risk": ("members_scored",),  # margins of it weigh by the count
}
"""Per figure that is no count: the counts that it is made of or helps to work out. All must be shown."""

DECIMALS = {
    "mean_risk": 3,
    "mean_risk_low": 3,
    "mean_risk_high": 3,
    "high_risk_share": 3,
    "very_high_risk_share": 3,
    "expected_readmissions": 1,
    "expected_matured": 1,
    "observed_to_expected": 2,
    "oe_low": 2,
    "oe_high": 2,
    "member_mean_risk": 3,
}
"""How published figures are rounded: a ratio to the last digits would tell its whole numbers."""

ONLY_OF_VALID = ("primary_diagnosis_group", "age_group", "insurance_type")
"""Dimensions of the contract's features: nobody whose key is unknown there is scored."""


def protect(cells: pd.DataFrame, tiers: Tiers | None = None) -> pd.DataFrame:
    """The published cells of one quarter, in the order in which they were given.

    `cells` as `summary.cells` has them: `KEY`, `COUNTS`, and figures; other columns pass through. `tiers`
    are the policy's edges, if readers may know them: a mean risk then bounds how many are above an edge.

    Counts become nullable whole numbers and figures are rounded; what is hidden is missing. Added are
    `suppressed_measures`, a list of names, and `suppressed`, whether there are any. The same cells give the
    same result in any order. What is published already is returned as it is.

    Raises `PermanentError` if cells are missing or doubled, or do not add up.
    """
    if "suppressed_measures" in cells.columns:
        return cells.copy()
    if cells.empty:
        return _published(cells, np.zeros((0, len(COUNTS)), dtype=bool), tiers)
    keys = [tuple(map(str, key)) for key in cells[[*KEY]].itertuples(index=False)]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.intp)
    ordered = cells.iloc[order]
    sums = ordered[[*COLUMNS]].fillna(0).to_numpy(dtype=np.float64)
    network = _network(ordered, sums)
    unknown = (ordered[[*ONLY_OF_VALID]] == UNKNOWN).any(axis=1).to_numpy()
    only_invalid = unknown & (sums[:, COUNTS.index("members_scored")] == 0)
    pattern = Pattern(sums, network, only_invalid, SENSITIVE, LIMIT, tiers)
    pattern.search()
    hidden = np.zeros((len(cells), len(COUNTS)), dtype=bool)
    hidden[order] = (pattern.hidden[:, np.newaxis] >> np.arange(len(COUNTS)) & 1).astype(bool)
    return _published(cells, hidden, tiers)


def _network(cells: pd.DataFrame, sums: npt.NDArray[np.float64]) -> Network:
    counts = sums[:, : len(COUNTS)]
    wrong = None
    if missing := sorted(set(CUBES) - set(cells["cube"])):
        wrong = f"no cell of: {', '.join(missing)}"
    elif cells.duplicated([*KEY]).any() or (cells["cube"] == "total").sum() != 1:
        wrong = "a cell is there twice, or not all are of one quarter"
    elif (np.array([s.form for s in SENSITIVE])[:, : len(COUNTS)] @ counts.T < 0).any():
        wrong = "a part is greater than its whole"
    elif (counts[:, 0] != counts[:, 1] + counts[:, 2]).any():
        wrong = "scored and invalid members are not all members"
    network = None if wrong else Network(cells[[*KEY]])
    if network is not None and network.off_balance(counts, counts[cells["cube"] == "total"][0]):
        wrong = "cubes do not add up to the same counts"
    if network is None or wrong:
        raise PermanentError(
            f"the cells cannot be protected: {wrong}",
            where="population_risk_published",
            mend="Compute the summary of the quarter again; publish nothing of it until its cubes agree.",
        )
    return network


def _published(cells: pd.DataFrame, hidden: npt.NDArray[np.bool_], tiers: Tiers | None) -> pd.DataFrame:
    by_figure: dict[str, npt.NDArray[np.bool_]] = dict(zip(COUNTS, hidden.T, strict=True))
    for figure, counts in SHOWN_WITH.items():
        by_figure[figure] = np.any([by_figure[count] for count in counts], axis=0)
    spread = _spread_tells(cells, hidden, tiers)
    by_figure |= {name: by_figure[name] | spread for name in ("mean_risk_low", "mean_risk_high")}
    published = cells.copy()
    for figure in FIGURES:
        if figure in COUNTS:
            published[figure] = published[figure].astype("Int64").mask(by_figure[figure])
        else:
            rounded = published[figure].astype(np.float64).round(DECIMALS[figure])
            published[figure] = rounded.mask(by_figure[figure])
    mask = np.array([by_figure[figure] for figure in FIGURES]).T
    published["suppressed"] = [bool(line.any()) for line in mask]
    # Whether a figure is withheld follows from the counts alone: it must not tell that it would be missing.
    published["suppressed_measures"] = [
        [figure for figure, withheld in zip(FIGURES, line, strict=True) if withheld] for line in mask
    ]
    return published


def _spread_tells(
    cells: pd.DataFrame, hidden: npt.NDArray[np.bool_], tiers: Tiers | None
) -> npt.NDArray[np.bool_]:
    """Cells whose mean and standard deviation bound a hidden number above an edge (Cantelli's inequality)."""
    told = np.zeros(len(cells), dtype=bool)
    if tiers is None:
        return told
    n, high, very_high = (
        cells[name].to_numpy(dtype=np.float64)
        for name in ("index_discharges_scored", "high_risk", "very_high_risk")
    )
    mean, low, top = (
        cells[name].to_numpy(dtype=np.float64) for name in ("mean_risk", "mean_risk_low", "mean_risk_high")
    )
    variance = (np.maximum(mean - low, top - mean) / NORMAL_95) ** 2 * n
    for edge, above, column in (
        (tiers.high, high, "high_risk"),
        (tiers.very_high, very_high, "very_high_risk"),
    ):
        with np.errstate(invalid="ignore", divide="ignore"):
            away = variance / (variance + (mean - edge) ** 2)
        most, least = np.where(mean < edge, away, 1.0) * n, np.where(mean < edge, 0.0, 1.0 - away) * n
        for count, lowest, highest in ((above, least, most), (n - above, n - most, n - least)):
            small = (count >= 1) & (count <= LIMIT) & hidden[:, COUNTS.index(column)]
            told |= small & ~((highest >= LIMIT + 1) & (lowest <= 1))
    return told
