"""What mobility forecasts for N patients cost in a month: storage and compute, each line with its arithmetic.

Belongs here: the shapes of `costs.toml` and `prices.toml`, the sums, and the source document's own bill.
Does not belong here: the numbers (those two files), and how they are shown (`cli/mobility.py`).

Rates are per CPU-second, and a virtual CPU is charged for the seconds it works. What is not counted:
requests and transfer, the machine's idle time (see `Estimate.always_on`), backups, people.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medscore_assets.mobility.raw import RAW_STEPS
from resources.errors import PermanentError
from resources.lake import Dataset, Lake

RATES_FILE: Final = Path(__file__).with_name("costs.toml")
PRICES_FILE: Final = Path(__file__).with_name("prices.toml")

DAYS_A_MONTH: Final = 30
HOURS_A_MONTH: Final = 24 * DAYS_A_MONTH
GB: Final = 1e9
TB: Final = 1e12
SAMPLED_PARTITIONS: Final = 30

Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class _Rules(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Shape = TypeVar("Shape", bound=_Rules)


class Stored(_Rules):
    """A data set: rows for each patient and day, and bytes for each row.

    `basis`, here and below: the command or the trial that measured the number, or that it is an assumption.
    """

    dataset: Text
    rows_per_patient_day: Positive
    bytes_per_row: Positive
    basis: Text


class Worked(_Rules):
    """Work that grows with the patients: rows for each patient, done again `runs_a_month` times.

    `rows_per_patient`: of one run. `history_rows_per_patient_day`: of computing the past once, 0 if the
    past is not computed.
    """

    work: Text
    unit: Text
    rows_per_patient: Positive
    runs_a_month: Positive
    history_rows_per_patient_day: Annotated[float, Field(ge=0)]
    rows_per_cpu_second: Positive
    basis: Text


class Trained(_Rules):
    """Work that does not grow with the patients, since it samples them."""

    work: Text
    unit: Text
    fits: Positive
    runs_a_month: Positive
    cpu_seconds_per_fit: Positive
    basis: Text


class Asked(_Rules):
    """Ad-hoc questions, as an assumption: how many a month, each over the whole of one data set."""

    questions_a_month: Positive
    dataset: Text


class Rates(_Rules):
    """What a patient stores and computes; the shape of `costs.toml`."""

    measured_on: Text
    history_days: Positive
    always_on_vcpus: Positive
    storage: Annotated[list[Stored], Field(min_length=1)]
    work: Annotated[list[Worked], Field(min_length=1)]
    training: list[Trained]
    questions: Asked

    @model_validator(mode="after")
    def _questions_are_of_something_stored(self) -> Self:
        if self.questions.dataset not in {s.dataset for s in self.storage}:
            raise ValueError(f"questions.dataset is none of storage: {self.questions.dataset}")
        return self


class UnitPrices(_Rules):
    """Prices in US dollars: storage for a GB (10^9 bytes) and month, a cluster's hour, a TB scanned."""

    storage_gb_month: Positive
    cluster_hour: Positive
    cluster_vcpus: Positive
    scanned_tb: Positive

    @property
    def vcpu_hour(self) -> float:
        """What one virtual CPU costs for an hour."""
        return self.cluster_hour / self.cluster_vcpus


class Factor(_Rules):
    """A number with its unit; `value / per` where it is a ratio."""

    value: Positive
    unit: Text
    per: Positive = 1.0

    def __str__(self) -> str:
        number = f"{self.value:g}" if self.per == 1 else f"{self.value:g}/{self.per:g}"
        return (
            f"${number}{self.unit.removeprefix('$')}"
            if self.unit.startswith("$")
            else f"{number} {self.unit}"
        )


class Claim(_Rules):
    """A line of the source document: what it says it costs, and the quantities and unit prices it gives."""

    item: Text
    claimed: Positive
    says: Text
    factors: Annotated[list[Factor], Field(min_length=1)]

    @property
    def adds_up_to(self) -> float:
        """The product of its own quantities and unit prices, in dollars a month."""
        return math.prod(f.value / f.per for f in self.factors)

    @property
    def arithmetic(self) -> str:
        """`$15 an hour x 2 hours a run x 30 daily runs`."""
        return " x ".join(map(str, self.factors))


class Prices(_Rules):
    """Unit prices with their source; the shape of a price file."""

    source: Text
    unit: UnitPrices
    document: list[Claim] = []


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an estimate: what, how its cost comes about, dollars."""

    item: str
    arithmetic: str
    usd: float
    basis: str = "assumption"
    """The command or the trial that measured the rate in it, or that it is an assumption."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A month's lines, what the past costs once, and a machine that stays on instead of paid-for seconds."""

    patients: int
    days: int
    monthly: list[Line]
    once: list[Line]
    always_on: Line

    @property
    def total(self) -> float:
        """Dollars a month."""
        return sum(line.usd for line in self.monthly)

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""

        def shown(line: Line) -> dict[str, Any]:
            return {
                "item": line.item,
                "arithmetic": line.arithmetic,
                "usd": round(line.usd, 4),
                "basis": line.basis,
            }

        return {
            "patients": self.patients,
            "days": self.days,
            "monthly": [shown(line) for line in self.monthly],
            "usd_a_month": round(self.total, 2),
            "once": [shown(line) for line in self.once],
            "usd_once": round(sum(line.usd for line in self.once), 2),
            "always_on": shown(self.always_on),
        }


def estimate(patients: int, days: int, rates: Rates, prices: UnitPrices) -> Estimate:
    """The cost for `patients` with `days` of history."""
    if patients < 1 or days < 1:
        raise ValueError("there is at least one patient and one day")
    sizes = {s.dataset: patients * days * s.rows_per_patient_day * s.bytes_per_row for s in rates.storage}
    monthly = [_storage(s, patients, days, sizes[s.dataset], prices) for s in rates.storage]
    monthly += [_worked(w, patients, prices) for w in rates.work]
    monthly += [_trained(t, prices) for t in rates.training]
    monthly.append(_asked(rates.questions, sizes[rates.questions.dataset], prices))
    once = [_history(w, patients, days, prices) for w in rates.work if w.history_rows_per_patient_day]
    return Estimate(patients, days, monthly, once, _always_on(patients, rates, prices))


def document_bill(claims: list[Claim]) -> dict[str, Any]:
    """The source document's claims beside the sums of its own quantities and unit prices. Fit for JSON."""
    return {
        "lines": [
            {
                "item": c.item,
                "claimed_usd": c.claimed,
                "arithmetic": c.arithmetic,
                "usd": round(c.adds_up_to, 2),
                "says": c.says,
            }
            for c in claims
        ],
        "claimed_usd_a_month": sum(c.claimed for c in claims),
        "usd_a_month": round(sum(c.adds_up_to for c in claims), 2),
    }


def measured_sizes(lake: Lake, rates: Rates) -> dict[str, float]:
    """Bytes for each row on disk, of the data sets of `rates` that the lake has; of the newest days."""
    sizes = {}
    for stored in rates.storage:
        monthly = stored.dataset.endswith("monthly_rollups")
        dataset = Dataset(stored.dataset, RAW_STEPS.schema, "month" if monthly else "day")
        newest = lake.days(dataset)[-SAMPLED_PARTITIONS:]
        names = [name for day in newest for name in lake.files(dataset, day)]
        total, rows = 0, 0
        for name, path in zip(names, lake.local(names), strict=True):
            with lake.reading(dataset, [name]):
                rows += pq.read_metadata(path).num_rows
            total += Path(path).stat().st_size
        if rows:
            sizes[stored.dataset] = total / rows
    return sizes


def with_sizes(rates: Rates, sizes: Mapping[str, float]) -> Rates:
    """The rates with other bytes for each row."""
    storage = [
        s.model_copy(update={"bytes_per_row": sizes.get(s.dataset, s.bytes_per_row)}) for s in rates.storage
    ]
    return rates.model_copy(update={"storage": storage})


def load_rates(path: Path = RATES_FILE) -> Rates:
    """The rates of a file; `PermanentError` naming the first thing wrong in it."""
    return _load(path, Rates)


def load_prices(path: Path = PRICES_FILE) -> Prices:
    """The prices of a file; `PermanentError` naming the first thing wrong in it."""
    return _load(path, Prices)


def _load(path: Path, shape: type[Shape]) -> Shape:
    mend = f"Correct the file. {PRICES_FILE.name} of the package shows its form."
    try:
        return shape.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise PermanentError(f"{field}: {first['msg'].lower()}", where=str(path), mend=mend) from None
    except tomllib.TOMLDecodeError as error:
        raise PermanentError(f"this is not TOML: {error}", where=str(path), mend=mend) from None
    except (OSError, UnicodeDecodeError):
        raise PermanentError("the file cannot be read", where=str(path), mend=mend) from None


def _storage(stored: Stored, patients: int, days: int, size: float, prices: UnitPrices) -> Line:
    return Line(
        f"Storage of {stored.dataset}",
        f"{patients:,} patients x {days:,} days x {stored.rows_per_patient_day:g} rows x "
        f"{stored.bytes_per_row:.3g} bytes = {size / GB:,.2f} GB; x ${prices.storage_gb_month:g}",
        size / GB * prices.storage_gb_month,
        stored.basis,
    )


def _worked(worked: Worked, patients: int, prices: UnitPrices) -> Line:
    seconds = patients * worked.rows_per_patient / worked.rows_per_cpu_second * worked.runs_a_month
    return Line(
        worked.work,
        f"{patients:,} patients x {worked.rows_per_patient:g} {worked.unit} x {worked.runs_a_month:g} runs / "
        f"{worked.rows_per_cpu_second:,.0f} a CPU-second; {_priced(seconds, prices)}",
        _usd(seconds, prices),
        worked.basis,
    )


def _history(worked: Worked, patients: int, days: int, prices: UnitPrices) -> Line:
    seconds = patients * days * worked.history_rows_per_patient_day / worked.rows_per_cpu_second
    return Line(
        f"{worked.work}, the whole past",
        f"{patients:,} patients x {days:,} days x {worked.history_rows_per_patient_day:g} {worked.unit} / "
        f"{worked.rows_per_cpu_second:,.0f} a CPU-second; {_priced(seconds, prices)}",
        _usd(seconds, prices),
        worked.basis,
    )


def _trained(trained: Trained, prices: UnitPrices) -> Line:
    seconds = trained.fits * trained.runs_a_month * trained.cpu_seconds_per_fit
    return Line(
        trained.work,
        f"{trained.fits:g} {trained.unit} x {trained.runs_a_month:.3g} runs x "
        f"{trained.cpu_seconds_per_fit:g} CPU-seconds; {_priced(seconds, prices)}",
        _usd(seconds, prices),
        trained.basis,
    )


def _asked(asked: Asked, size: float, prices: UnitPrices) -> Line:
    return Line(
        f"Ad-hoc questions on {asked.dataset}, if Athena answers them",
        f"{asked.questions_a_month:g} questions x {size / TB:.4f} TB x ${prices.scanned_tb:g}",
        asked.questions_a_month * size / TB * prices.scanned_tb,
    )


def _always_on(patients: int, rates: Rates, prices: UnitPrices) -> Line:
    hours = rates.always_on_vcpus * HOURS_A_MONTH
    month = sum(patients * w.rows_per_patient / w.rows_per_cpu_second * w.runs_a_month for w in rates.work)
    month += sum(t.fits * t.runs_a_month * t.cpu_seconds_per_fit for t in rates.training)
    return Line(
        "A machine that stays on, instead of paying for the seconds worked",
        f"{rates.always_on_vcpus:g} vCPUs x {HOURS_A_MONTH} hours x ${prices.vcpu_hour:.4f}; "
        f"the work above takes {month / 3600 / hours:.2%} of it",
        hours * prices.vcpu_hour,
    )


def _usd(cpu_seconds: float, prices: UnitPrices) -> float:
    return cpu_seconds / 3600 * prices.vcpu_hour


def _priced(cpu_seconds: float, prices: UnitPrices) -> str:
    return f"{cpu_seconds / 3600:,.4f} vCPU-hours x ${prices.cluster_hour:g}/{prices.cluster_vcpus:g}"
