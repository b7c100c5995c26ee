"""What a model says: one number for one patient, or arrays for many facilities and bands.

Belongs here: the shape and bounds of a prediction, and the statuses that a missing one can have. Does not
belong here: how models are called (`running.py`) and what the board makes of it (`display.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

LONGEST_SECONDS = 86_400
"""Nothing longer is a wait: a number in milliseconds or of a broken model."""


class Status(IntEnum):
    """What became of a prediction; the names in lower case are stored."""

    OK = 0
    FALLBACK = 1
    """A number from the model's declared substitute."""
    NO_DATA = 2
    ERROR = 3
    """The model raised."""
    INVALID = 4
    """The model answered with what is no wait."""
    TIMEOUT = 5

    @property
    def code(self) -> str:
        """As it is stored."""
        return self.name.lower()


HAS_VALUE = (Status.OK, Status.FALLBACK)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


Seconds = Annotated[FiniteFloat, BeforeValidator(_plain), Field(ge=0, le=LONGEST_SECONDS)]


class Prediction(BaseModel):
    """The wait of somebody who arrives at the moment of the prediction, in seconds until the physician."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    wait_seconds: Seconds
    """The typical wait: half of the patients are seen within it."""
    p80_seconds: Seconds | None = None
    """Eight in ten patients are seen within it."""
    status: Literal["ok", "fallback"] = "ok"
    message: str = Field(default="", max_length=200)
    """For the staff: why it is a fallback. Holds nothing about a patient."""


@dataclass
class Predictions:
    """Predictions for scenes and bands, seconds in arrays of shape (scenes, bands), NaN for none."""

    bands: tuple[str, ...]
    p50: npt.NDArray[np.float64]
    p80: npt.NDArray[np.float64]
    status: npt.NDArray[np.uint8]
    messages: dict[tuple[int, int], str] = field(default_factory=dict)
    """By scene and place of the band."""
    raw_p80: npt.NDArray[np.float64] | None = None
    """What a calibrating model corrected."""
    stamp: tuple[str, str] | None = None
    """The name and version that answered, where the model learns them from its answer."""

    @classmethod
    def empty(cls, scenes: int, bands: tuple[str, ...]) -> Self:
        """No data anywhere: what a model fills in."""
        return cls.without(scenes, bands, Status.NO_DATA)

    @classmethod
    def without(cls, scenes: int, bands: tuple[str, ...], status: Status, message: str = "") -> Self:
        """The same status and no number for all."""
        shape = (scenes, len(bands))
        places = [(scene, band) for scene in range(scenes) for band in range(len(bands))] if message else []
        return cls(
            bands=bands,
            p50=np.full(shape, np.nan),
            p80=np.full(shape, np.nan),
            status=np.full(shape, status, dtype=np.uint8),
            messages=dict.fromkeys(places, message),
        )

    def put(self, scene: int, band: int, found: Prediction | None) -> None:
        """Takes one prediction over; None is no data."""
        if found is None:
            self.fail(scene, band, Status.NO_DATA)
            return
        self.p50[scene, band] = found.wait_seconds
        self.p80[scene, band] = np.nan if found.p80_seconds is None else found.p80_seconds
        self.status[scene, band] = Status[found.status.upper()]
        self._say(scene, band, found.message)

    def fail(self, scene: int, band: int, status: Status, message: str = "") -> None:
        """Notes that there is no number, and why."""
        self.p50[scene, band] = self.p80[scene, band] = np.nan
        self.status[scene, band] = status
        self._say(scene, band, message)

    def _say(self, scene: int, band: int, message: str) -> None:
        self.messages.pop((scene, band), None)
        if message:
            self.messages[scene, band] = message

    def has_value(self) -> npt.NDArray[np.bool_]:
        """Where there is a number, of shape (scenes, bands)."""
        return np.isin(self.status, HAS_VALUE)
