"""The API under what happens in a hospital, for minutes: no answer may be wrong, lost, or not audited.

    python -m benchmarks.soak [--minutes N] [--json PATH]

Fifty requests a second, at fixed times whatever the answers do, on one core. On the other a training runs
all the time. A champion is promoted and later rolled back, a challenger scores in the shadow, and
PostgreSQL is killed (SIGKILL) and started again. While it is away, and for `SETTLING_S` after, 503 with
Retry-After is a right answer; for how long it was given is measured. What each version says of each patient
is computed beforehand by the scorer. At the end every answer is compared with the version that it names,
with the stored score and with the audit.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import sqlalchemy as sa
import typer

from benchmarks.harness import Report, console
from benchmarks.site import Site, on_core, train_demo
from benchmarks.soak_run import OTHER_CORE, Answer, Plan, Soaked, soak
from medscore_assets.audit import verify
from medscore_assets.tables.serving import audit_events, readmission_scores, shadow_scores

SETTLING_S = 5.0
"""How long after PostgreSQL answers again a 503 is still taken for part of the restart: the journal waits up
to 1.5 s between attempts, and up to 2 s for a connection."""

SWAP_S = 5.0
GROWTH_MB = 16.0
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def main(
    minutes: Annotated[float, typer.Option(min=0.5)] = 10.0,
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Soaks and reports; exits with 1 when a goal is missed."""
    if len(os.sched_getaffinity(0)) < 2:
        raise typer.BadParameter("server and training need a core each; this machine gives one")
    with tempfile.TemporaryDirectory(prefix="medscore-soak-") as folder, on_core(OTHER_CORE):
        console.print("training three models")
        site = Site.prepare(Path(folder))
        report = Report(f"{minutes:g} minutes of 50 requests a second")
        soaked = soak(site, [train_demo(seed) for seed in (1, 2, 3)], Plan(60 * minutes, 50))
        judge(report, site, soaked)
        site.warehouse.close()
    raise typer.Exit(report.finish(json_path))


def judge(report: Report, site: Site, soaked: Soaked) -> None:
    """Adds to the report what was seen, and each goal."""
    good = [a for a in soaked.answers if a.status == 200]
    statuses = Counter(a.status for a in soaked.answers)
    ids = [a.body["score_id"] for a in good]
    report.figures |= {
        "answers_by_status": {str(k): v for k, v in sorted(statuses.items())},
        "answers_by_version": dict(sorted(Counter(a.body["model_version"] for a in good).items())),
        "latency_ms": _latency(good),
        "refused_ms": _latency([a for a in soaked.answers if a.status == 503]),
        "memory_mb": _memory(soaked.happened.memory),
        "postgresql_away_s": round(soaked.happened.restarted - soaked.happened.killed, 2),
    }
    _none(report, "answers with another risk than their version's", _wrong(soaked, good))
    _none(report, "connections broken", statuses[0])
    _none(report, "answers but 200 and 503", sum(n for s, n in statuses.items() if s not in (0, 200, 503)))
    _none(report, "503 outside of the restart, or without Retry-After", _unexcused(soaked))
    _recovery(report, soaked, good)
    _stored(report, site, soaked, good, ids)
    _swaps(report, soaked, good)
    growth = _growth(soaked.happened.memory)
    report.within("memory, last tenth against the third", growth, -1e9, GROWTH_MB, "MB")
    found = verify(site.warehouse)
    report.within("audit chain intact", float(found.intact), 1, 1, "")
    report.within("training ran until the end", float(soaked.happened.trained_to_the_end), 1, 1, "")


def _none(report: Report, what: str, number: int) -> None:
    report.within(what, number, 0, 0, "")


def _wrong(soaked: Soaked, good: list[Answer]) -> int:
    return sum(
        int(a.body["model_version"]) not in soaked.champions
        or a.body["readmission_probability"] != soaked.expected[int(a.body["model_version"])][a.patient]
        for a in good
    )


def _unexcused(soaked: Soaked) -> int:
    """503 that no restart explains: begun before the kill and answered before it, or begun after settling."""
    happened = soaked.happened
    settled = happened.restarted + SETTLING_S
    return sum(
        a.status == 503 and not (a.retry_after and a.done >= happened.killed and a.sent <= settled)
        for a in soaked.answers
    )


def _recovery(report: Report, soaked: Soaked, good: list[Answer]) -> None:
    """For how long it went on refusing, and that it then answered: settling has to come to an end."""
    back = soaked.happened.restarted
    last = max((a.sent for a in soaked.answers if a.status == 503 and a.sent > back), default=back)
    report.figures["refused_after_restart_s"] = round(last - back, 2)
    report.at_least("answers after the last refusal", sum(a.sent > last for a in good), 1, "")


def _stored(report: Report, site: Site, soaked: Soaked, good: list[Answer], ids: list[str]) -> None:
    """Each 200 has one stored score, one shadow score of the challenger, and one audit event."""
    scores = readmission_scores.c
    rows = {
        r["score_id"]: r
        for r in site.warehouse.read(
            sa.select(scores.score_id, scores.readmission_probability, scores.model_version)
        ).to_pylist()
    }
    shadows = {
        (r["score_id"], r["model_version"]): r["readmission_probability"]
        for r in site.warehouse.read(sa.select(shadow_scores)).to_pylist()
    }
    events = Counter(
        uuid
        for event in site.warehouse.read(sa.select(audit_events.c.event))["event"].to_pylist()
        for uuid in set(_UUID.findall(event))
    )
    _none(report, "score ids given twice", len(ids) - len(set(ids)))
    _none(
        report,
        "200 without its stored score",
        sum(
            a.body["score_id"] not in rows
            or rows[a.body["score_id"]]["readmission_probability"] != a.body["readmission_probability"]
            or str(rows[a.body["score_id"]]["model_version"]) != a.body["model_version"]
            for a in good
        ),
    )
    _none(report, "200 without exactly one audit event", sum(events[i] != 1 for i in ids))
    third = soaked.challenger
    _none(
        report,
        "200 without its score in the shadow",
        sum(shadows.get((a.body["score_id"], third)) != soaked.expected[third][a.patient] for a in good),
    )
    # Committed, but the connection broke before the journal heard of it: the client was told 503.
    report.figures["stored_but_answered_503"] = len(rows.keys() - set(ids))


def _swaps(report: Report, soaked: Soaked, good: list[Answer]) -> None:
    first, second = soaked.champions
    for what, at, old, until in (
        ("promotion", soaked.happened.promoted, first, soaked.happened.rolling_back),
        ("rollback", soaked.happened.rolled_back, second, float("inf")),
    ):
        of_old = (a for a in good if int(a.body["model_version"]) == old)
        # What is still under way when the next move begins may be answered by either.
        late = [a.sent - at for a in of_old if at < a.sent and a.done < until]
        report.within(f"{what} in force after", max(late, default=0.0), 0, SWAP_S, "s")
    versions = {int(a.body["model_version"]) for a in good}
    report.within("versions that answered", len(versions), 2, 2, "")


def _latency(answers: list[Answer]) -> dict[str, float]:
    if not answers:
        return {}
    took = [1e3 * (a.done - a.sent) for a in answers]
    return {n: round(float(np.percentile(took, q)), 2) for n, q in (("p50", 50), ("p99", 99), ("max", 100))}


def _memory(samples: list[tuple[float, float]]) -> dict[str, float]:
    after = samples[len(samples) // 4 :]
    slope = np.polyfit([t / 60 for t, _ in after], [mb for _, mb in after], 1)[0]
    return {
        "first": round(samples[0][1], 1),
        "last": round(samples[-1][1], 1),
        "most": round(max(mb for _, mb in samples), 1),
        "slope_mb_per_minute_after_warm_up": round(float(slope), 3),
    }


def _growth(samples: list[tuple[float, float]]) -> float:
    tenth = max(1, len(samples) // 10)
    return statistics.median(mb for _, mb in samples[-tenth:]) - statistics.median(
        mb for _, mb in samples[2 * tenth : 3 * tenth]
    )


if __name__ == "__main__":
    typer.run(main)
