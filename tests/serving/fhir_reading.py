"""Reading a prefetch in tests: the row it gives, or what is missing of it, and changes to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from serving.fhir_codes import Codes, load_codes
from serving.fhir_mapping import Mapped, Missing, NotScored, Underivable, map_stay
from tests.serving.fhir_bundles import (
    ENCOUNTER,
    HL7,
    NOW,
    PATIENT,
    ZONE,
    coded,
)

CODES = load_codes()
Prefetch = dict[str, Any]
Change = Callable[[Prefetch], None]


def mapped(values: Mapping[str, Any], codes: Codes = CODES, server: str | None = None) -> Mapped | NotScored:
    return map_stay(
        values, patient_id=PATIENT, encounter_id=ENCOUNTER, now=NOW, zone=ZONE, codes=codes, server=server
    )


def row(values: Mapping[str, Any], codes: Codes = CODES, server: str | None = None) -> Mapping[str, Any]:
    """The row of a prefetch that gives one."""
    found = mapped(values, codes, server)
    assert isinstance(found, Mapped), found
    return found.row


def missing(values: Mapping[str, Any], codes: Codes = CODES) -> dict[str, Missing]:
    """What is missing of a prefetch that gives no row, by feature."""
    with pytest.raises(Underivable) as raised:
        mapped(values, codes)
    return {m.feature: m for m in raised.value.missing}


def stay_with(values: Prefetch, **changes: Any) -> Prefetch:
    """The same with members of the encounter changed, or removed if None."""
    for place in (values["encounter"], values["encounters"]["entry"][0]["resource"]):
        for name, value in changes.items():
            if value is None:
                place.pop(name, None)
            else:
                place[name] = value
    return values


def hospitalization(values: Prefetch, **changes: Any) -> Prefetch:
    """The same with members of Encounter.hospitalization changed, or removed if None."""
    now = {**values["encounter"]["hospitalization"], **changes}
    return stay_with(values, hospitalization={k: v for k, v in now.items() if v is not None})


def ending(code: str) -> Change:
    concept = coded(f"{HL7}discharge-disposition", code)
    return lambda values: void(hospitalization(values, dischargeDisposition=concept))


def void(_: object) -> None:
    """For changes whose result does not matter."""
