"""Which change of data or performance is a warning, and which an alarm.

Belongs here: the shape of `thresholds.toml`, its validation and hash, and the verdict on one value.
Does not belong here: the values themselves (`thresholds.toml`), measuring, telling anybody.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from resources.errors import PermanentError

State = Literal["good", "warning", "alarm", "not_judged"]
STATES: tuple[State, ...] = get_args(State)
GOOD, WARNING, ALARM, NOT_JUDGED = STATES

Judged = Literal[
    "psi",
    "missing_rate_rise",
    "tier_share_change",
    "auroc_fall",
    "expected_auroc_fall",
    "calibration_slope",
    "observed_expected",
    "forecast_error_rise",
    "coverage_gap",
    "missing_patients",
    "faulty_days_rise",
]
"""What has limits; each is an entry of the file."""

NEEDS_OUTCOMES = ("auroc_fall", "calibration_slope", "observed_expected")
OF_FORECASTS = ("forecast_error_rise", "coverage_gap")
"""Measured on outcomes that are numbers: there are no events to count."""

DEFAULT_FILE = Path(__file__).with_name("thresholds.toml")

Positive = Annotated[float, Field(gt=0)]


class _Rules(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Minimum(_Rules):
    """How many cases a verdict needs."""

    scores: Annotated[int, Field(ge=1)]
    """For what is measured on scores alone."""
    outcomes: Annotated[int, Field(ge=1)]
    """For what is measured on outcomes."""
    events: Annotated[int, Field(ge=1)]
    """With the outcome, and as many without it."""


class Limit(_Rules):
    """A value above `warning` warns, one above `alarm` alarms; 0 is right."""

    right: ClassVar[float] = 0.0

    warning: Positive
    alarm: Positive

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not self.warning < self.alarm:
            raise ValueError("alarm must lie above warning")
        return self

    def outside(self, value: float, limit: Literal["warning", "alarm"]) -> bool:
        """Whether a value has passed a limit."""
        return value > float(getattr(self, limit))


class Range(_Rules):
    """A value outside of `warning` warns, one outside of `alarm` alarms; 1 is right and inside of both."""

    right: ClassVar[float] = 1.0

    # A strict model takes no list for a tuple, and TOML has lists only.
    warning: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    alarm: Annotated[list[Positive], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _nest(self) -> Self:
        (low, high), (lowest, highest) = self.warning, self.alarm
        if not lowest < low < 1 < high < highest:
            raise ValueError("the range alarm must hold the range warning, and both the 1")
        return self

    def outside(self, value: float, limit: Literal["warning", "alarm"]) -> bool:
        """Whether a value has passed a limit."""
        low, high = getattr(self, limit)
        return not low <= value <= high


class Thresholds(_Rules):
    """The validated rules of one `thresholds.toml`."""

    version: Annotated[str, Field(min_length=1)]
    minimum: Minimum
    psi: Limit
    missing_rate_rise: Limit
    tier_share_change: Limit
    auroc_fall: Limit
    expected_auroc_fall: Limit
    calibration_slope: Range
    observed_expected: Range
    forecast_error_rise: Limit
    coverage_gap: Limit
    missing_patients: Limit
    faulty_days_rise: Limit

    @property
    def hash(self) -> str:
        """SHA-256 of the rules, whatever the file's layout and comments."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def judge(
        self,
        measure: Judged,
        value: float | None,
        *,
        n: int,
        events: int | None = None,
        interval: tuple[float | None, float | None] = (None, None),
    ) -> State:
        """The verdict on one value measured on `n` cases, `events` of them with the outcome.

        An undefined value, and one from too few cases, is not judged. Nor is one beyond the limits whose
        95 % interval holds what is right: it is too uncertain. An alarm needs that none of the interval is
        good; otherwise a value beyond the alarm is a warning.
        """
        if value is None or not self._enough(measure, n, events):
            return NOT_JUDGED
        rule: Limit | Range = getattr(self, measure)
        if not rule.outside(value, "warning"):
            return GOOD
        lower, upper = interval
        if lower is not None and upper is not None and lower <= rule.right <= upper:
            return NOT_JUDGED
        surely = all(rule.outside(end, "warning") for end in interval if end is not None)
        return ALARM if surely and rule.outside(value, "alarm") else WARNING

    def _enough(self, measure: Judged, n: int, events: int | None) -> bool:
        if measure in OF_FORECASTS:
            return n >= self.minimum.outcomes
        if measure not in NEEDS_OUTCOMES:
            return n >= self.minimum.scores
        return (
            events is not None
            and n >= self.minimum.outcomes
            and min(events, n - events) >= self.minimum.events
        )


def load_thresholds(file: Path = DEFAULT_FILE) -> Thresholds:
    """The thresholds in a TOML file. Raises `PermanentError` that names the entry that is wrong."""
    try:
        return Thresholds.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise PermanentError(
            f"the thresholds cannot be read: {error.strerror}",
            where=str(file),
            mend="Set MEDSCORE_THRESHOLDS_FILE to a file of thresholds.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"the thresholds are not valid TOML: {error}", where=str(file), mend="Correct that line."
        ) from error
    except ValidationError as error:
        raise PermanentError(
            f"the thresholds are not valid: {_entries(error)}",
            where=str(file),
            mend="Correct these entries.",
        ) from error


def _entries(error: ValidationError) -> str:
    found: list[dict[str, Any]] = [dict(e) for e in error.errors(include_url=False, include_input=False)]
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in found)
