"""How good wait-time predictions are: error, pinball loss, coverage, availability and stability.

Belongs here: measures of predictions that patients were attributed to (`attribution.py`), in groups, and of
the ticks themselves. Does not belong here: one model against another (`comparison.py`), storing.

A model posts its 80th percentile, or its typical wait where it has no other value. Pinball loss at that
level ranks models, since coverage alone can be had by adding minutes. Coverage is told in four ways:

- `coverage_seen`: of the patients seen, the share seen within the posted wait. Kind while waits go on, since
  short ones end first;
- `coverage`: the same with those still waiting past the posted wait counted as misses, which they are;
- `coverage_lower`, `coverage_upper`: those who left unseen counted too, as misses, or as hits where they left
  before the posted wait was over.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from medscore_assets.wait_times.columns import Mask, Numbers, codes, decoded, numbers, times
from medscore_assets.wait_times.display import CAP_MINUTES, NOTHING, displayed_series

NOMINAL = 0.8
"""The level that posted waits shall hold: 8 in 10 are seen within."""

TYPICAL = 0.5
"""The level of the typical wait, a median."""

JUMP_SECONDS = 1800.0
"""A change from one tick to the next that people notice."""

PAIR = ("model", "version")
"""What tells models apart."""

SERIES = ("facility_id", "band", *PAIR)
"""What tells the series of one number apart."""

USABLE = ("ok", "fallback")
"""The statuses of predictions that have a value."""

_MEANS = {
    "pinball_50": "pinball_50",
    "pinball_80": "pinball_80",
    "absolute_error": "mae",
    "error": "bias",
    "hit": "coverage_seen",
    "hit_or_known_miss": "coverage",
    "hit_if_left_missed": "coverage_lower",
    "hit_if_left_in_time": "coverage_upper",
    "posted": "mean_posted",
}
"""Quantity of one patient -> name of its mean."""

_SUMS = {"seen": "n", "left_unseen": "left_unseen", "known_miss": "known_misses", "unresolved": "unresolved"}
"""Mark of one patient -> name of its count."""


def pinball(actual: npt.ArrayLike, predicted: npt.ArrayLike, level: float) -> Numbers:
    """Loss of a quantile, shape (n,): level * shortfall where it was too low, (1 - level) * excess else."""
    short = np.asarray(actual, dtype=np.float64) - np.asarray(predicted, dtype=np.float64)
    return np.maximum(level * short, (level - 1) * short)


def posted(attributed: pa.Table) -> Numbers:
    """The posted wait per row in seconds, shape (n,): the 80th percentile, else the typical wait."""
    return numbers(pc.coalesce(attributed["p80_seconds"], attributed["p50_seconds"]))


def score(attributed: pa.Table, by: Sequence[str] = PAIR) -> pa.Table:
    """Measures per group of the columns `by`: one row each, sorted by them.

    `n` patients were seen, `left_unseen` gave up, `known_misses` still wait past the posted time and
    `unresolved` wait within it. `pinball_50`, `pinball_80`, `mae` and `bias` (predicted minus actual: above
    0 is posted too long) are in seconds over the seen; so is `mean_posted`, over all. For the coverages see
    the module. A measure of nobody is null.
    """
    table = attributed.select(list(by))
    for name, values in _quantities(attributed).items():
        table = table.append_column(name, pa.array(values, from_pandas=True))
    totals = [(name, "mean") for name in _MEANS] + [(name, "sum") for name in _SUMS]
    found = table.group_by(list(by)).aggregate(totals)
    named = {f"{name}_sum": title for name, title in _SUMS.items()}
    named |= {f"{name}_mean": title for name, title in _MEANS.items()}
    columns = {title: found[name] for name, title in named.items()}
    counts = {title: columns[title].cast(pa.int64()) for title in _SUMS.values()}
    measures = {name: decoded(found[name]) for name in by} | columns | counts
    return pa.table(measures).sort_by([(name, "ascending") for name in by])


def calibration_by_level(attributed: pa.Table, by: Sequence[str] = PAIR) -> pa.Table:
    """Per group and level (0.5, 0.8): `n` patients judged and the share `observed` seen within the quantile.

    Those still waiting past the quantile are known misses. A model that does not give a level has no row
    for it.
    """
    actual, waited = numbers(attributed["actual_seconds"]), _still_waited(attributed)
    parts = []
    for level, column in ((TYPICAL, "p50_seconds"), (NOMINAL, "p80_seconds")):
        quantile = numbers(attributed[column])
        within = _hits(actual, waited, quantile)
        within[np.isnan(quantile)] = np.nan
        table = attributed.select(list(by)).append_column("within", pa.array(within, from_pandas=True))
        table = table.filter(pc.is_valid(table["within"]))
        found = table.group_by(list(by)).aggregate([("within", "count"), ("within", "mean")])
        columns = {name: decoded(found[name]) for name in by}
        columns |= {"level": pa.array(np.full(len(found), level))}
        columns |= {"n": found["within_count"], "observed": found["within_mean"]}
        parts.append(pa.table(columns))
    order = [(name, "ascending") for name in (*by, "level")]
    return pa.concat_tables(parts).sort_by(order)


def coverage_by_block(localised: pa.Table, by: Sequence[str] = PAIR) -> pa.Table:
    """Per group and 4-hour `block` of the local day (0: from midnight) what `score` says of coverage.

    `localised` has the columns of `attribution.localised`. Coverage over whole days hides nights.
    """
    return score(localised, (*by, "block")).select([*by, "block", *_COVERAGE_COLUMNS])


def coverage_by_day(localised: pa.Table, by: Sequence[str] = PAIR) -> pa.Table:
    """Per group and local `day` of arrival what `score` says of coverage; input as `coverage_by_block`."""
    return score(localised, (*by, "day")).select([*by, "day", *_COVERAGE_COLUMNS])


_COVERAGE_COLUMNS = (
    *("n", "known_misses", "unresolved", "left_unseen", "coverage_seen", "coverage"),
    *("coverage_lower", "coverage_upper", "mean_posted"),
)


def availability(predictions: pa.Table, by: Sequence[str] = PAIR) -> pa.Table:
    """Per group: expected values `ticks`, those there `ok` and by `fallback`, and their share `availability`.

    Expected is a value of each facility and band that the model has, at every tick that anything was saved
    of, from the pair's first tick on: a model that failed or was not asked is unavailable, a scheduler that
    stood still is not the model's doing. `predictions` has a row per facility, band, model, version, as_of.
    """
    ticks = np.unique(times(predictions["as_of"]))
    first = predictions.group_by(list(SERIES)).aggregate([("as_of", "min")])
    since = len(ticks) - np.searchsorted(ticks, times(first["as_of_min"]))
    series = first.select(list(SERIES)).append_column("expected", pa.array(since))
    expected = series.group_by(list(by)).aggregate([("expected", "sum")])
    marked = predictions.select(list(by))
    for status in USABLE:
        there = pc.equal(predictions["status"].cast(pa.string()), status).cast(pa.int64())
        marked = marked.append_column(status, there)
    found = marked.group_by(list(by)).aggregate([(status, "sum") for status in USABLE])
    # Both tables are grouped in the order of first appearance of a group, which may differ.
    order = [(name, "ascending") for name in by]
    expected, found = (_plain(table, by).sort_by(order) for table in (expected, found))
    usable = numbers(found["ok_sum"]) + numbers(found["fallback_sum"])
    columns = {name: found[name] for name in by} | {"ticks": expected["expected_sum"]}
    columns |= {status: found[f"{status}_sum"] for status in USABLE}
    columns["availability"] = pa.array(usable / numbers(expected["expected_sum"]))
    return pa.table(columns)


def stability(
    predictions: pa.Table, by: Sequence[str] = PAIR, *, longest_gap: timedelta = timedelta(minutes=30)
) -> pa.Table:
    """Per group: how much a posted number moves from tick to tick.

    `changes` pairs of values of one series in turn, at most `longest_gap` apart; `mean_change` of the
    typical wait in seconds, without sign; `jumps`, the share above 30 minutes. Null where nothing changed
    hands.
    """
    usable = pc.is_in(predictions["status"].cast(pa.string()), pa.array(USABLE))
    table = predictions.filter(pc.and_(usable, pc.is_valid(predictions["wait_seconds"])))
    series = codes(table, SERIES)
    order = np.lexsort((times(table["as_of"]), series))
    table, series = table.take(pa.array(order)), series[order]
    begins = np.diff(series, prepend=-1) != 0
    gap = np.diff(times(table["as_of"]), prepend=0)
    change = np.abs(np.diff(numbers(table["wait_seconds"]), prepend=np.nan))
    change[begins | (gap > longest_gap / timedelta(microseconds=1))] = np.nan
    jump = np.where(np.isnan(change), np.nan, change > JUMP_SECONDS)
    columns = table.select(list(by)).append_column("change", pa.array(change, from_pandas=True))
    columns = columns.append_column("jump", pa.array(jump, from_pandas=True))
    found = columns.group_by(list(by)).aggregate([("change", "count"), ("change", "mean"), ("jump", "mean")])
    named = {"changes": "change_count", "mean_change": "change_mean", "jumps": "jump_mean"}
    result = {name: decoded(found[name]) for name in by}
    result |= {title: found[name] for title, name in named.items()}
    return pa.table(result).sort_by([(name, "ascending") for name in by])


def displayed_predictions(predictions: pa.Table) -> pa.Table:
    """What a board would have displayed of each series, in the columns of predictions: to be judged alike.

    The ends of the range stand in `wait_seconds` and `p80_seconds`. Ranges that end above the cap promise no
    time and are left out, as are ticks at which nothing was displayed.
    """
    usable = pc.is_in(decoded(predictions["status"]), pa.array(USABLE))
    series, as_of = codes(predictions, SERIES), times(predictions["as_of"])
    ticks, tick = np.unique(as_of, return_inverse=True)
    shape = (len(ticks), int(series.max(initial=-1)) + 1)
    said = []
    for name in ("wait_seconds", "p80_seconds"):
        table = np.full(shape, np.nan)
        table[tick, series] = np.where(usable.to_numpy(), numbers(predictions[name]), np.nan)
        said.append(table)
    low, high = displayed_series(*said)
    kept = (low[tick, series] != NOTHING) & (high[tick, series] <= CAP_MINUTES)
    shown = predictions.filter(pa.array(kept))
    for name, minutes in (("wait_seconds", low), ("p80_seconds", high)):
        seconds = pa.array(60.0 * minutes[tick, series][kept])
        shown = shown.set_column(shown.column_names.index(name), name, seconds)
    return shown


def _quantities(attributed: pa.Table) -> dict[str, Numbers]:
    """What is averaged or counted, per patient, shape (n,); NaN where a patient has no part in it."""
    actual, waited = numbers(attributed["actual_seconds"]), _still_waited(attributed)
    typical, shown = numbers(attributed["p50_seconds"]), posted(attributed)
    left = _left(attributed)
    left_after = np.where(left, numbers(attributed["censored_at_seconds"]), np.nan)
    known = _hits(actual, waited, shown)
    return {
        "pinball_50": pinball(actual, typical, TYPICAL),
        "pinball_80": pinball(actual, shown, NOMINAL),
        "absolute_error": np.abs(typical - actual),
        "error": typical - actual,
        "hit": _hits(actual, np.full_like(actual, np.nan), shown),
        "hit_or_known_miss": known,
        "hit_if_left_missed": np.where(left, 0.0, known),
        "hit_if_left_in_time": np.where(left, left_after <= shown, known),
        "posted": shown,
        "seen": np.isfinite(actual).astype(np.float64),
        "left_unseen": left.astype(np.float64),
        "known_miss": (waited > shown).astype(np.float64),
        "unresolved": (waited <= shown).astype(np.float64),
    }


def _hits(actual: Numbers, waited: Numbers, quantile: Numbers) -> Numbers:
    """1 where seen within a quantile, 0 where seen or still waiting after it, NaN where not known."""
    known = np.where(np.isfinite(actual), actual <= quantile, np.nan)
    return np.where(waited > quantile, 0.0, known)


def _still_waited(attributed: pa.Table) -> Numbers:
    """How long those still waiting have waited, in seconds; NaN for the others."""
    waited = numbers(attributed["censored_at_seconds"])
    return np.where(_left(attributed), np.nan, waited)


def _left(attributed: pa.Table) -> Mask:
    marks: Mask = attributed["left_unseen"].to_numpy().astype(np.bool_)
    return marks


def _plain(table: pa.Table, by: Sequence[str]) -> pa.Table:
    columns = {name: decoded(table[name]) if name in by else table[name] for name in table.column_names}
    return pa.table(columns)
