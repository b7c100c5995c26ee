"""What every benchmark shares: paired timing, the machine's state, goals, and the one JSON object.

Belongs here: measuring and reporting. Does not belong here: anything about what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

console = Console()


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one run: on the wall and of CPU in this process, all threads."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, what was asked of it, and whether it is met."""

    what: str
    value: float
    unit: str
    goal: str
    met: bool


@dataclass
class Report:
    """Collects what a benchmark measured, prints it, and writes it as one JSON object."""

    title: str
    goals: list[Goal] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    load_before: tuple[float, float, float] = field(default_factory=os.getloadavg)

    def at_least(self, what: str, value: float, bound: float, unit: str) -> None:
        """A goal that `value` must reach."""
        self.goals.append(Goal(what, round(value, 4), unit, f">= {bound:g}", value >= bound))

    def within(self, what: str, value: float, low: float, high: float, unit: str) -> None:
        """A goal that `value` lies in a closed interval."""
        self.goals.append(Goal(what, round(value, 4), unit, f"{low:g} to {high:g}", low <= value <= high))

    def machine(self) -> dict[str, Any]:
        """Processor, cores, load before and after, and the peak memory of this process."""
        return {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_before": [round(x, 2) for x in self.load_before],
            "load_after": [round(x, 2) for x in os.getloadavg()],
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }

    def finish(self, path: Path | None) -> int:
        """Prints everything, writes the JSON if asked to, and returns 0 when every goal is met."""
        table = Table("what", "value", "goal", "met", title=self.title)
        for goal in self.goals:
            mark = "[green]yes[/green]" if goal.met else "[red]no[/red]"
            table.add_row(goal.what, f"{goal.value:g} {goal.unit}", goal.goal, mark)
        console.print_json(data=self.figures)
        console.print(table)
        console.print(self.machine())
        if path:
            document = {
                "title": self.title,
                "goals": [asdict(goal) for goal in self.goals],
                "figures": self.figures,
                "machine": self.machine(),
            }
            path.write_text(json.dumps(document, indent=2) + "\n")
        return 0 if all(goal.met for goal in self.goals) else 1


def timed(work: Callable[[], Any]) -> Timing:
    """One run of `work`."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def paired(
    contenders: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[str, list[Timing]]:
    """Runs the contenders in turn, A B C A B C, so that a drift of the machine meets all alike."""
    for _ in range(warm_up):
        for work in contenders.values():
            work()
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    for _ in track(range(rounds), description="measuring", console=console, transient=True):
        for name, work in contenders.items():
            timings[name].append(timed(work))
    return timings


def summary(timings: list[Timing]) -> dict[str, dict[str, float]]:
    """Minimum, median and maximum in milliseconds, of wall time and of CPU."""
    return {
        kind: {
            "min_ms": round(1e3 * min(values), 2),
            "median_ms": round(1e3 * statistics.median(values), 2),
            "max_ms": round(1e3 * max(values), 2),
        }
        for kind, values in (("wall", [t.wall for t in timings]), ("cpu", [t.cpu for t in timings]))
    }


def ratio(slower: list[Timing], faster: list[Timing]) -> float:
    """Median over the rounds of the wall-time ratio within a round."""
    return statistics.median(a.wall / b.wall for a, b in zip(slower, faster, strict=True))
