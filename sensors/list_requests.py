"""Asks for runs that make morning lists: once for each state of a day, and again only if that may help.

Belongs here: what the sensors on lists share. Does not belong here: which days want a list.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.catch_up import DayState
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import MODEL
from resources.registry import CHAMPION, ModelRegistry

DAYS_BACK = 14
"""How long a list is kept up to date after its morning."""

GRACE = timedelta(minutes=30)
"""How long after 06:00 the schedule alone makes a list."""

MAX_ATTEMPTS = 5
"""How many runs of one state may end without a list, before it is left to people."""

PARTITION_TAG = "dagster/partition"


@dataclass(frozen=True, slots=True)
class Means:
    """What besides the records decides what comes of a run."""

    champion: int
    policy_hash: str

    @classmethod
    def present(cls, registry: ModelRegistry, policy_file: Path) -> "Means | None":
        """Those in force, or None while there is no champion, without which no list can be made."""
        champion = registry.version_with(MODEL, CHAMPION)
        return None if champion is None else cls(champion, load_policy(policy_file).hash)

    def state_of(self, day: DayState) -> str:
        """A text that is another one as soon as a run of that day might end otherwise."""
        counts = ":".join(str(n) for n in day.counts.values())
        return f"{day.day}:{counts}:{self.champion}:{self.policy_hash[:8]}:{READMISSION.hash[:8]}"


NO_CHAMPION = dg.SkipReason("There is no champion, so no list can be made. Run: medscore train readmission")


def request_lists(
    context: dg.SensorEvaluationContext, job_name: str, wanted: Sequence[DayState], means: Means, idle: str
) -> dg.SensorResult:
    """A run for each of the days, newest first: the team needs the newest list first.

    A run that failed for good is not asked for again before its day's state is another one. The cursor
    holds, per day, the run that failed for good and the state it met. After one that failed for a reason
    that passes another is asked for, up to `MAX_ATTEMPTS` times.
    """
    before: dict[str, list[str]] = json.loads(context.cursor or "{}")
    met: dict[str, list[str]] = {}
    requests = []
    for day in sorted(wanted, key=lambda d: d.day, reverse=True):
        state = means.state_of(day)
        attempt, for_good = _earlier_runs(context.instance, job_name, day.day)
        if for_good is not None:
            run_id = for_good.dagster_run.run_id
            known = before.get(day.day, ["", ""])
            met[day.day] = [run_id, known[1] if known[0] == run_id else _met_by(for_good, day, state)]
            if met[day.day][1] == state:
                continue
        requests.append(dg.RunRequest(partition_key=day.day, run_key=f"{state}:{attempt}"))
    waiting = len(wanted) - len(requests)
    reason = f"{waiting} of the days failed for good and nothing has changed." if waiting else idle
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else dg.SkipReason(reason),
        cursor=json.dumps(met),
    )


def _met_by(run: dg.RunRecord, day: DayState, state: str) -> str:
    """The state that a failed run met, as far as can be told when it is first seen to have failed."""
    started = datetime.fromtimestamp(run.start_time or run.create_timestamp.timestamp(), UTC)
    changed = day.newest_arrival is not None and day.newest_arrival > started
    return "" if changed else state


def _earlier_runs(instance: dg.DagsterInstance, job_name: str, day: str) -> tuple[int, dg.RunRecord | None]:
    """How many runs of a day ended, and the newest one if it failed for good.

    One that a person cancelled does not count: it is not to be started again.
    """
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    filters = dg.RunsFilter(job_name=job_name, statuses=ended, tags={PARTITION_TAG: day})
    records = instance.get_run_records(filters, limit=MAX_ATTEMPTS)
    for newest in records[:1]:
        failed = newest.dagster_run.status == dg.DagsterRunStatus.FAILURE
        if failed and _for_good(instance, newest.dagster_run.run_id):
            return len(records), newest
    return len(records), None


def _for_good(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a step refused to be tried again. A lost worker and a lost database leave no such word."""
    failures = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    events = (entry.dagster_event for entry in failures)
    return any(e is not None and e.step_failure_data.user_failure_data is not None for e in events)
