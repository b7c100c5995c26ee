"""Small cells: a solver that knows all published figures cannot work out a count of 1 to 10 people."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscore_assets.readmission.population.dimensions import DIMENSIONS
from medscore_assets.readmission.population.summary import COUNTS, FIGURES, KEY
from medscore_assets.readmission.population.suppression import (
    DECIMALS,
    LIMIT,
    SHOWN_WITH,
    Tiers,
    protect,
)
from resources.errors import PermanentError
from tests.readmission.population.disclosure import EDGES, PEOPLE, Reader, quarter, small_counts

SIZES = dict.fromkeys(DIMENSIONS, 3)
ONE_OF_EACH = dict.fromkeys(DIMENSIONS, 1)


@functools.cache
def with_small_cells() -> tuple[pd.DataFrame, pd.DataFrame]:
    truth = quarter(5, 1500, SIZES, clean=True)
    return truth, protect(truth, Tiers(*EDGES))


def clean_quarter() -> pd.DataFrame:
    return quarter(1, 4000, ONE_OF_EACH | {"sex": 2, "region": 2}, uneven=0.0, clean=True)


def hidden_where_small(truth: pd.DataFrame) -> pd.DataFrame:
    """Primary suppression only: the small counts themselves, and what is derived from them."""
    published = truth.copy()
    for name in COUNTS:
        small = truth[name].between(1, LIMIT)
        published[name] = truth[name].astype("Int64").mask(small)
    for figure, counts in SHOWN_WITH.items():
        gone = np.any([published[count].isna() for count in counts], axis=0)
        published[figure] = truth[figure].round(DECIMALS[figure]).mask(gone)
    return published


@pytest.mark.slow
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    people=st.sampled_from([40, 400, 1500, 4000]),
    sizes=st.fixed_dictionaries({name: st.integers(1, 3) for name in DIMENSIONS}),
    edges=st.sampled_from([None, EDGES]),
)
def test_a_reader_with_a_solver_cannot_work_out_a_small_count(
    seed: int, people: int, sizes: dict[str, int], edges: tuple[float, float] | None
) -> None:
    truth = quarter(seed, people, sizes)
    reader = Reader(protect(truth, Tiers(*edges) if edges else None), edges)
    places = [*small_counts(truth)]
    for n in np.random.default_rng(seed).permutation(len(places))[:3]:
        place, kind, value = places[n]
        assert not reader.learns(place, kind, value), (truth.loc[place, [*KEY]].to_dict(), kind, value)


def test_the_same_reader_succeeds_where_only_small_counts_are_hidden() -> None:
    truth, _ = with_small_cells()
    reader = Reader(hidden_where_small(truth))
    hidden = [one for one in small_counts(truth) if len(PEOPLE[one[1]]) == 1]
    assert any(reader.learns(*one) for one in hidden)


def test_the_same_reader_works_a_count_out_of_shares() -> None:
    """The source document's report: cells by region and diagnosis with a percentage and a mean."""
    truth, published = with_small_cells()
    published = published.copy()
    place, _, value = next(
        one
        for one in small_counts(truth)
        if one[1] == "high" and truth.loc[one[0], "index_discharges_scored"] > 30
    )
    scored, share = truth.loc[place, ["index_discharges_scored", "high_risk_share"]]
    published.loc[place, "index_discharges_scored"] = scored
    assert not Reader(published).learns(place, "high", value)
    published.loc[place, "high_risk_share"] = round(share, 3)
    reader = Reader(published)
    assert not reader.thinks_possible(place, PEOPLE["high"], value + 1)
    assert not reader.thinks_possible(place, PEOPLE["high"], 0, value - 1)


def test_a_quarter_without_small_counts_is_published_whole() -> None:
    truth = clean_quarter()
    assert not [*small_counts(truth)]
    published = protect(truth, Tiers(*EDGES))
    assert not published["suppressed"].any()
    assert [*published.columns] == [*truth.columns, "suppressed", "suppressed_measures"]
    pd.testing.assert_frame_equal(
        published[[*COUNTS]], truth[[*COUNTS]].astype("Int64"), check_column_type=False
    )
    pd.testing.assert_series_equal(published["mean_risk"], truth["mean_risk"].round(3))


def test_no_small_count_is_shown_and_what_is_hidden_is_said() -> None:
    _, published = with_small_cells()
    for name in COUNTS:
        assert not published[name].between(1, LIMIT).fillna(False).any()
    for figure in FIGURES:
        told = published["suppressed_measures"].map(lambda names, figure=figure: figure in names)
        assert published.loc[told, figure].isna().all()
        if figure in COUNTS:
            assert published.loc[~told, figure].notna().all()
    assert (published["suppressed"] == (published["suppressed_measures"].map(len) > 0)).all()
    assert not published.loc[published["cube"] == "total", "members"].isna().any()


def test_a_derived_figure_goes_with_its_counts_even_where_it_is_missing_anyway() -> None:
    """Else the list of what is withheld would tell a zero denominator."""
    _, published = with_small_cells()
    for figure, counts in SHOWN_WITH.items():
        told = published["suppressed_measures"].map(lambda names, figure=figure: figure in names)
        needed = published["suppressed_measures"].map(
            lambda names, counts=counts: any(count in names for count in counts)
        )
        if figure in ("mean_risk_low", "mean_risk_high"):  # Withheld for their own sake as well.
            assert told[needed].all(), figure
        else:
            assert (told == needed).all(), figure


def test_order_of_cells_does_not_matter_and_twice_is_once() -> None:
    truth, published = with_small_cells()
    shuffled = truth.sample(frac=1.0, random_state=4)
    pd.testing.assert_frame_equal(protect(shuffled, Tiers(*EDGES)).sort_index(), published)
    pd.testing.assert_frame_equal(protect(published), published)


def test_a_cube_of_one_cell_is_hidden_with_its_total() -> None:
    """Nobody but the total could make up for it."""
    truth = quarter(2, 9, ONE_OF_EACH)
    published = protect(truth)
    assert published[[*FIGURES]].isna().all(axis=None)
    assert published["suppressed_measures"].map(set).map(set(FIGURES).__eq__).all()


def test_people_of_one_row_are_not_given_away_by_their_margin() -> None:
    """Two sexes: hiding the rarer one alone leaves it to be subtracted."""
    truth = quarter(21, 3000, ONE_OF_EACH | {"sex": 2}, uneven=9.5, clean=True)
    rare = truth.index[(truth["cube"] == "sex") & truth["members"].between(1, LIMIT)]
    assert len(rare) == 1
    published = protect(truth)
    assert published.loc[published["cube"] == "sex", "members"].isna().all()
    assert not published.loc[published["cube"].isin(["total", "region"]), "members"].isna().any()
    control = Reader(hidden_where_small(truth))
    value = int(truth.loc[rare[0], "members"])
    assert control.learns(int(rare[0]), "members", value)
    assert not Reader(published).learns(int(rare[0]), "members", value)


def test_a_mean_and_its_interval_do_not_bound_the_few_above_an_edge() -> None:
    """Of many low risks with little spread only a few can be high, whoever hides how many."""
    truth = clean_quarter()
    for name in ("very_high_risk", "high_risk"):
        truth[name] = np.where(truth["cube"] == "total", 44, 0)
        for cube, group in truth[truth["cube"] != "total"].groupby("cube"):
            shares = (
                [40, 4]
                if cube in ("sex", "age_group_sex")
                else np.diff(np.linspace(0, 44, len(group) + 1).round()).astype(int)
            )
            truth.loc[group.index, name] = shares
    for name, value in (("mean_risk", 0.10), ("mean_risk_low", 0.099), ("mean_risk_high", 0.101)):
        truth[name] = value
    truth["expected_readmissions"] = truth["index_discharges_scored"] * 0.10
    truth["expected_matured"] = truth["matured"] * 0.10
    few = (truth["cube"] == "sex") & (truth["high_risk"] == 4)
    assert protect(truth).loc[few, "mean_risk_low"].notna().all()
    published = protect(truth, Tiers(*EDGES))
    assert published.loc[few, ["mean_risk_low", "mean_risk_high"]].isna().all(axis=None)


def test_cells_that_do_not_add_up_are_refused() -> None:
    truth = quarter(1, 400, SIZES)
    for wrong in (
        truth[truth["cube"] != "sex"],
        pd.concat([truth, truth.tail(1)]),
        truth.assign(members=truth["members"] + (truth["cube"] == "region")),
        truth.assign(high_risk=truth["index_discharges_scored"] + 1),
    ):
        with pytest.raises(PermanentError, match="cannot be protected"):
            protect(wrong)
