"""A morning list as a person reads it: words, times, filters, order.

Belongs here: everything between a `Morning` and the template. Does not belong here: HTTP and the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta, tzinfo
from typing import Any
from urllib.parse import urlencode

from medscore_assets.readmission.policy import DISCLAIMER, TIERS, Policy
from serving.lists import ENTERED_HERE, READY_BY_HOUR, Call, Morning

OUTCOMES = {"reached": "Reached", "called": "No answer", "declined": "Declined"}
"""What a call may come to, in the order of the buttons."""

NOT_CALLED = "none"
STATES = {
    NOT_CALLED: "Not called yet",
    "open": "Still to reach",
    "called": "No answer so far",
    "reached": "Reached",
    "declined": "Declined",
}
SORTS = {
    "rank": "Rank",
    "discharged": "Time of discharge",
    "hospital": "Hospital",
    "encounter": "Encounter",
}
TIER_NAMES = {tier: tier.replace("_", " ").capitalize() for tier in reversed(TIERS)}
_STILL_TO_REACH = (NOT_CALLED, "called")


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a list. Every field may come from a URL except `text`, which may name an encounter."""

    tier: str = ""
    hospital: str = ""
    state: str = ""
    sort: str = "rank"
    text: str = ""
    everybody: bool = False
    """Whether patients beyond the day's calls are shown too."""

    @classmethod
    def of(cls, said: Mapping[str, str], text: str = "") -> View:
        """The view that was asked for; what is not known is as if it had not been said."""
        return cls(
            tier=said.get("tier", "") if said.get("tier") in TIERS else "",
            hospital=said.get("hospital", "")[:200],
            state=said.get("state", "") if said.get("state") in STATES else "",
            sort=said.get("sort", "") if said.get("sort") in SORTS else "rank",
            text=text.strip()[:200],
            everybody=said.get("show") == "all",
        )

    def query(self, **changes: Any) -> str:
        """The view as the end of an address, without the text."""
        view = replace(self, **changes)
        said = {name: value for name, value in asdict(view).items() if name not in ("text", "everybody")}
        said = {name: value for name, value in said.items() if value and (name, value) != ("sort", "rank")}
        if view.everybody:
            said["show"] = "all"
        return f"?{urlencode(said)}" if said else ""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: `raises` or `lowers`, the words, and what it does in words."""

    direction: str
    text: str
    effect: str


@dataclass(frozen=True, slots=True)
class CallState:
    """What became of the calls about one patient. `undo` is the last call that can be taken back."""

    state: str
    words: str
    last: str
    earlier: str
    undo: str | None

    @property
    def settled(self) -> bool:
        """Whether nobody has to call again."""
        return self.state not in _STILL_TO_REACH


@dataclass(frozen=True, slots=True)
class Row:
    """One patient of the list."""

    rank: int
    tier: str
    tier_name: str
    percent: str
    encounter_id: str
    patient_id: str
    hospital_id: str
    discharged: str
    discharged_at: str
    reasons: list[Reason]
    actions: list[str]
    within_capacity: bool
    call: CallState
    shown: bool


@dataclass(frozen=True, slots=True)
class ListPage:
    """A list, ready for the template."""

    day: date
    rows: list[Row]
    hospitals: list[str]
    header: dict[str, Any]
    opened: str
    closed: str
    made: str
    capacity: int
    scored: int
    disclaimer: str
    late: str | None
    days: list[date] = field(default_factory=list)

    @property
    def visible(self) -> int:
        """How many rows are shown."""
        return sum(row.shown for row in self.rows)

    @property
    def called(self) -> int:
        """How many of the rows were called about."""
        return sum(row.call.state != NOT_CALLED for row in self.rows)

    @property
    def reached(self) -> int:
        """How many of them were reached."""
        return sum(row.call.state == "reached" for row in self.rows)


def list_page(
    morning: Morning, view: View, policy: Policy, zone: tzinfo, *, days: list[date], due: date | None
) -> ListPage:
    """The list under a view. All rows of the view's scope are there; those filtered away are not `shown`."""
    header = morning.header
    capacity = sum(patient["within_capacity"] for patient in morning.patients)
    chosen = [p for p in morning.patients if view.everybody or not capacity or p["within_capacity"]]
    rows = [_row(morning, patient, view, policy, zone) for patient in chosen]
    rows.sort(key=_order(view.sort))
    return ListPage(
        day=morning.day,
        rows=rows,
        hospitals=sorted({row.hospital_id for row in rows}),
        header=header,
        opened=moment(header["window_start"], zone),
        closed=moment(header["window_end"], zone),
        made=moment(header["published_at"], zone),
        capacity=capacity,
        scored=len(morning.patients),
        disclaimer=morning.patients[0]["disclaimer"] if morning.patients else DISCLAIMER,
        late=late_words(due, days, morning, zone),
        days=days,
    )


def late_words(due: date | None, days: list[date], morning: Morning, zone: tzinfo) -> str | None:
    """A sentence if the list that must be there by now is not, and this is the one shown for it."""
    if due is None or (days and days[0] >= due) or (days and morning.day != days[0]):
        return None
    due_on = due + timedelta(days=1)
    made = moment(morning.header["published_at"], zone)
    return (
        f"The list of the discharges of {_day(due)} was due on {_day(due_on)} at {READY_BY_HOUR:02d}:00 "
        f"and is not there. This is an older list, of the discharges of {_day(morning.day)}, made {made}."
    )


def call_state(calls: list[Call], zone: tzinfo) -> CallState:
    """What became of the calls about one patient, earliest first."""
    if not calls:
        return CallState(NOT_CALLED, STATES[NOT_CALLED], "", "", None)
    last = calls[-1]
    # Who was reached or declined stays so, whatever call is entered afterwards.
    settled = next((c for c in reversed(calls) if c.outcome in ("reached", "declined")), last)
    earlier = len(calls) - 1
    return CallState(
        state=settled.outcome,
        words=OUTCOMES[settled.outcome],
        last=moment(settled.called_at, zone),
        earlier="" if not earlier else f"{earlier + 1} calls",
        undo=last.called_at.isoformat() if last.source == ENTERED_HERE else None,
    )


def moment(value: datetime, zone: tzinfo) -> str:
    """A time of day in the platform's zone: `Mon 2 Mar, 14:05`."""
    local = value.astimezone(zone)
    return f"{local:%a} {local.day} {local:%b}, {local:%H:%M}"


def _day(value: date) -> str:
    return f"{value:%A}, {value.day} {value:%B}"


def _row(morning: Morning, patient: dict[str, Any], view: View, policy: Policy, zone: tzinfo) -> Row:
    call = call_state(morning.calls.get(patient["encounter_id"], []), zone)
    return Row(
        rank=patient["rank"],
        tier=patient["risk_tier"],
        tier_name=TIER_NAMES[patient["risk_tier"]],
        percent=morning.published.percent(patient["readmission_probability"], policy),
        encounter_id=patient["encounter_id"],
        patient_id=patient["patient_id"],
        hospital_id=patient["hospital_id"],
        discharged=f"{patient['discharged_at'].astimezone(zone):%a %H:%M}",
        discharged_at=patient["discharged_at"].isoformat(),
        reasons=[reason(factor) for factor in patient["top_factors"]],
        actions=patient["recommended_actions"],
        within_capacity=patient["within_capacity"],
        call=call,
        shown=_matches(view, patient, call),
    )


def reason(factor: dict[str, Any]) -> Reason:
    """A stored reason; its words end with what it does, in brackets."""
    text, _, effect = factor["text"].rpartition(" (")
    return Reason(factor["direction"], text or factor["text"], effect.removesuffix(")") if text else "")


def _matches(view: View, patient: dict[str, Any], call: CallState) -> bool:
    text = view.text.casefold()
    return (
        view.tier in ("", patient["risk_tier"])
        and view.hospital in ("", patient["hospital_id"])
        and (view.state in ("", call.state) or (view.state == "open" and not call.settled))
        and (text in patient["encounter_id"].casefold() or text in patient["patient_id"].casefold())
    )


def _order(sort: str) -> Any:
    by = {
        "discharged": lambda row: (row.discharged_at, row.rank),
        "hospital": lambda row: (row.hospital_id, row.rank),
        "encounter": lambda row: (row.encounter_id, row.rank),
    }
    return by.get(sort, lambda row: row.rank)
