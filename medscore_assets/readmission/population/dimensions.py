"""What members are counted by: the dimensions, their members, and the cubes.

Belongs here: names and order of dimensions, the age groups, which cube is split by what.
Does not belong here: counting (`accumulate.py`) and figures (`summary.py`).

A member without a key, or with one that the contract does not know, is counted under `UNKNOWN`, so that
every cube adds up to all members.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medscore_assets.contracts.fields import Category, Whole
from medscore_assets.contracts.readmission import READMISSION

UNKNOWN = "Unknown"
"""Missing, blank, padded, or not in the contract."""

ALL = "All"
"""Stands in a dimension that a cube is not split by."""

DIMENSIONS = ("region", "hospital_id", "primary_diagnosis_group", "age_group", "sex", "insurance_type")

CUBES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "total": (),
        "region": ("region",),
        "primary_diagnosis_group": ("primary_diagnosis_group",),
        "age_group": ("age_group",),
        "sex": ("sex",),
        "insurance_type": ("insurance_type",),
        "hospital": ("hospital_id",),
        "region_diagnosis": ("region", "primary_diagnosis_group"),
        "age_group_sex": ("age_group", "sex"),
        "region_insurance": ("region", "insurance_type"),
    }
)
"""Per cube the dimensions that it is split by. A hospital is one row, whatever regions its members are of."""

AGE_GROUPS: Mapping[str, int] = MappingProxyType(
    {"0-17": 0, "18-34": 18, "35-49": 35, "50-64": 50, "65-74": 65, "75-84": 75, "85+": 85}
)
"""The lowest age of each group, in years."""


def feature(name: str) -> int:
    """The position of a feature in the contract's matrix."""
    return READMISSION.feature_names.index(name)


def members_of_categories(name: str) -> tuple[str, ...]:
    """The dimension's member for each code of a categorical feature.

    The contract's own word for "not recorded" is no member of its own beside `UNKNOWN`.
    """
    categories = READMISSION.features[feature(name)]
    assert isinstance(categories, Category)
    return tuple(UNKNOWN if c.lower() == UNKNOWN.lower() else c for c in categories.categories)


def members_of_ages() -> tuple[str, ...]:
    """The age group of every age that the contract allows, by age in years."""
    ages = READMISSION.features[feature("patient_age")]
    assert isinstance(ages, Whole)
    return tuple(
        next(group for group, lowest in reversed([*AGE_GROUPS.items()]) if age >= lowest)
        for age in range(ages.maximum + 1)
    )


def rank(dimension: str, member: str) -> tuple[int, str]:
    """Sorts the members of a dimension as people read them: in their natural order, `UNKNOWN` last."""
    order = _ORDER.get(dimension, ())
    if member == UNKNOWN:
        return (len(order) + 1, member)
    return (order.index(member) if member in order else len(order), member)


_ORDER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "age_group": tuple(AGE_GROUPS),
        "primary_diagnosis_group": members_of_categories("primary_diagnosis_group"),
        "insurance_type": members_of_categories("insurance_type"),
    }
)
