"""The raw part of the lake: step records by UTC day, and the clinical tables.

Belongs here: which columns raw files have, and which raw days a day of patients needs.
Does not belong here: where files are (`resources/lake.py`) and what a day of steps is (`daily.py`).
"""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa

from resources.lake import Dataset, Lake

TEXT = pa.dictionary(pa.int32(), pa.string())
"""A text of few values."""

RAW_STEPS = Dataset(
    "raw/step-counts",
    pa.schema(
        [
            ("patient_id", TEXT),
            ("timestamp", pa.timestamp("us", "UTC")),
            ("zone", TEXT),
            ("count", pa.int32()),
            ("device", TEXT),
        ]
    ),
    sorted_by="zone",
)
"""One row: the steps that a device counted in the minute that begins at `timestamp`.

Partitions are UTC dates of `timestamp`. `zone` is the IANA name of the zone in which the device was; null
where the device does not say.
"""

PATIENTS = Dataset(
    "clinical/patients",
    pa.schema(
        [
            ("patient_id", pa.string()),
            ("birth_date", pa.date32()),
            ("sex", pa.string()),
            ("zone", pa.string()),
        ]
    ),
    partition=None,
)

_VALIDITY = [("valid_from", pa.date32()), ("valid_to", pa.date32())]
"""From the first day to the day before `valid_to`; null where no end is known."""

DIAGNOSES = Dataset(
    "clinical/diagnoses",
    pa.schema([("patient_id", pa.string()), ("disease", pa.string()), *_VALIDITY]),
    partition=None,
)

THERAPIES = Dataset(
    "clinical/therapies",
    pa.schema([("patient_id", pa.string()), ("therapy", pa.string()), *_VALIDITY]),
    partition=None,
)

SIDE_EFFECTS = Dataset(
    "clinical/side_effects",
    pa.schema(
        [("patient_id", pa.string()), ("side_effect", pa.string()), ("severity", pa.int32()), *_VALIDITY]
    ),
    partition=None,
)

CLINICAL = (PATIENTS, DIAGNOSES, THERAPIES, SIDE_EFFECTS)


def touching(day: date) -> tuple[date, date, date]:
    """The days that share moments with `day` somewhere on Earth, from the one before to the one after.

    So these are the raw days that a local day is made of, and the local days that a raw day goes into.
    """
    return day - timedelta(days=1), day, day + timedelta(days=1)


def has_come(lake: Lake, day: date) -> bool:
    """Whether there are raw files of the day itself or of the one after.

    Those of the day before go on into this one only in zones ahead of UTC, where nobody need live.
    """
    return any(lake.files(RAW_STEPS, raw_day) for raw_day in touching(day)[1:])
