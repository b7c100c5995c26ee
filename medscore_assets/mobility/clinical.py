"""What the clinical tables say of a patient on a day: one row, whatever is valid at once.

Belongs here: the state of diagnoses, therapies and side effects as of a day. Does not belong here: steps
(`features.py`) and which model a disease leads to (`cohorts.py`).

What is valid on a day is what began before it and was not over before it: the state of the day before,
since `valid_to` is the first day that is not valid any more. A change that is dated on the day or later
changes nothing. The state only changes on few days, so it is computed for spans of days that follow each
other without overlap, and a day meets exactly one of them.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from medscore_assets.contracts.mobility import DISEASES, NO_THERAPY, SEXES, WORST_SEVERITY

if TYPE_CHECKING:
    import ibis.expr.types as ir

EPOCH = date(1970, 1, 1)
NEVER = 10_000_000
"""A day number past all dates."""


def number_of(day: date) -> int:
    """The day's number: days since 1970-01-01."""
    return (day - EPOCH).days


def day_number(column: ir.Value) -> ir.IntegerValue:
    """`number_of` of a column of dates."""
    import ibis

    return column.cast("date").delta(ibis.date(EPOCH.isoformat()), unit="day").cast("int32")


def people(patients: ir.Table) -> ir.Table:
    """(patient_id, birth_year, birth_month_day, sex), one row per patient even if a patient is listed twice.

    `birth_month_day` is 100 x month + day; a sex that the contract does not list is `unknown`.
    """
    one = patients.group_by("patient_id").aggregate(birth=patients.birth_date.max(), sex=patients.sex.max())
    return one.select(
        "patient_id",
        birth_year=one.birth.year().cast("int32"),
        birth_month_day=(one.birth.month() * 100 + one.birth.day()).cast("int32"),
        sex=one.sex.isin(SEXES).ifelse(one.sex, "unknown"),
    )


def states(
    diagnoses: ir.Table, therapies: ir.Table, side_effects: ir.Table, first: date, last: date
) -> ir.Table:
    """The clinical state by spans of days from `first` to `last`.

    Columns: patient_id, from_number and to_number (both included), disease, diagnosed_number,
    active_diseases, therapy, therapy_number, active_therapies, active_side_effects, worst_side_effect.
    Patients without a row that is valid in these days are absent.
    """
    import ibis

    begin, end = number_of(first), number_of(last)
    diagnosed = _valid(diagnoses, begin, end, what="disease")
    treated = _valid(therapies, begin, end, what="therapy")
    affected = _valid(side_effects, begin, end, what="side_effect", severity="severity")
    starts = _starts([diagnosed, treated, affected], begin, end)
    by = ("patient_id", "from_number")
    state = (
        starts.left_join(_diseases(starts, diagnosed), by, rname="{name}_d")
        .left_join(_therapies(starts, treated), by, rname="{name}_t")
        .left_join(_side_effects(starts, affected), by, rname="{name}_s")
    )
    following = ibis.window(group_by=state.patient_id, order_by=state.from_number)
    return state.select(
        "patient_id",
        "from_number",
        to_number=(state.from_number.lead(1).over(following) - 1).fill_null(end).cast("int32"),
        disease=state.disease.fill_null("unknown"),
        diagnosed_number=state.diagnosed_number,
        active_diseases=state.active_diseases.fill_null(0),
        therapy=state.therapy.fill_null(NO_THERAPY),
        therapy_number=state.therapy_number,
        active_therapies=state.active_therapies.fill_null(0),
        active_side_effects=state.active_side_effects.fill_null(0),
        worst_side_effect=state.worst_side_effect.fill_null(0),
    )


def _valid(table: ir.Table, begin: int, end: int, **columns: str) -> ir.Table:
    """(patient, began, over, ...): the rows that are valid on some of the days, once each."""
    began, over = day_number(table.valid_from), day_number(table.valid_to).fill_null(NEVER)
    rows = table.select(
        patient=table.patient_id, began=began, over=over, **{new: table[old] for new, old in columns.items()}
    ).rename(what=next(iter(columns)))
    return rows.filter(rows.what.notnull(), rows.began < end, rows.over >= begin, rows.over > rows.began)


def _starts(tables: list[ir.Table], begin: int, end: int) -> ir.Table:
    """(patient_id, from_number): the first day, and each on which the patient's state may change."""
    import ibis

    changes = []
    for table in tables:
        began = ibis.greatest(table.began + 1, ibis.literal(begin, "int32")).cast("int32")
        over = (table.over + 1).cast("int32")
        changes += [
            table.select(patient_id=table.patient, from_number=ibis.literal(begin, "int32")),
            table.select(patient_id=table.patient, from_number=began),
            table.select(patient_id=table.patient, from_number=over).filter(over <= end),
        ]
    return ibis.union(*changes, distinct=True)


def _active(starts: ir.Table, valid: ir.Table) -> ir.Table:
    """Every start with each row that is valid on it."""
    return starts.join(
        valid,
        [
            starts.patient_id == valid.patient,
            valid.began < starts.from_number,
            valid.over >= starts.from_number,
        ],
    )


def _diseases(starts: ir.Table, diagnosed: ir.Table) -> ir.Table:
    """The cohort's disease, since when, and how many there are."""
    import ibis

    active = _active(starts, diagnosed)
    *named, other, _ = DISEASES
    cohorts = {disease: active.what == disease for disease in named}
    cohorts[other] = active.what.notin(named)
    since = active.group_by("patient_id", "from_number").aggregate(
        active_diseases=active.what.nunique().cast("int32"),
        **{f"since_{name}": active.began.min(where=rows) for name, rows in cohorts.items()},
    )
    return since.select(
        "patient_id",
        "from_number",
        "active_diseases",
        disease=ibis.cases(*((since[f"since_{name}"].notnull(), name) for name in cohorts)),
        diagnosed_number=ibis.coalesce(*(since[f"since_{name}"] for name in cohorts)),
    )


def _therapies(starts: ir.Table, treated: ir.Table) -> ir.Table:
    """The therapy that began last (of several on one day the first by name), since when, and how many."""
    import ibis

    active = _active(starts, treated)
    by = ("patient_id", "from_number")
    latest = ibis.window(group_by=[active.patient_id, active.from_number])
    active = active.mutate(latest=active.began.max().over(latest))
    return active.group_by(*by).aggregate(
        therapy=active.what.min(where=active.began == active.latest),
        therapy_number=active.began.max(),
        active_therapies=active.what.nunique().cast("int32"),
    )


def _side_effects(starts: ir.Table, affected: ir.Table) -> ir.Table:
    """How many side effects there are, and the highest severity among them that is one."""
    active = _active(starts, affected)
    worst = active.severity.max(where=active.severity.between(1, WORST_SEVERITY))
    return active.group_by("patient_id", "from_number").aggregate(
        active_side_effects=active.what.nunique().cast("int32"),
        worst_side_effect=worst.cast("int32"),
    )
