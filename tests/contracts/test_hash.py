"""What the hash stands for: it moves with every rule that decides a code, and with nothing else.

The hash and the vectors are written out, so that a change of encoding is a decision: who changes them
here makes every registered model useless until it is trained anew.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from medscore_assets.contracts.contract import Contract
from medscore_assets.contracts.fields import Category, Flag, Moment, Whole
from medscore_assets.contracts.readmission import READMISSION

GOLDEN_HASH = "d27dc7c2582c9dd3a2438b6df76a4bf95034da736b5fa29582481a91c639c611"

GOLDEN_VECTORS = [
    ((0, 0, 0, 0, "cardiac", "home", "commercial", False, 0, False),
     [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ((120, 365, 100, 50, "other", "other", "unknown", True, 100, True),
     [120, 365, 100, 50, 6, 4, 4, 1, 100, 1]),
    ((71, 4, 2, 5, "cardiac", "home", "medicare", True, 9, False),
     [71, 4, 2, 5, 0, 0, 1, 1, 9, 0]),
    ((34, 1, 0, 1, "respiratory", "home", "medicaid", True, 3, True),
     [34, 1, 0, 1, 1, 0, 2, 1, 3, 1]),
    ((82, 9, 1, 7, "digestive", "skilled_nursing", "dual_eligible", False, 14, True),
     [82, 9, 1, 7, 2, 2, 3, 0, 14, 1]),
    ((67, 3, 0, 2, "musculoskeletal", "rehab", "commercial", False, 6, True),
     [67, 3, 0, 2, 3, 3, 0, 0, 6, 1]),
    ((55, 6, 4, 9, "neurological", "home_with_care", "medicare", True, 17, False),
     [55, 6, 4, 9, 4, 1, 1, 1, 17, 0]),
    ((48, 2, 3, 6, "endocrine", "home", "medicaid", True, 11, True),
     [48, 2, 3, 6, 5, 0, 2, 1, 11, 1]),
    ((93, 12, 0, 4, "other", "skilled_nursing", "medicare", True, 8, False),
     [93, 12, 0, 4, 6, 2, 1, 1, 8, 0]),
    ((18, 0, 7, 3, "respiratory", "other", "unknown", False, 1, False),
     [18, 0, 7, 3, 1, 4, 4, 0, 1, 0]),
]  # fmt: skip


def test_the_hash_is_the_one_that_models_were_trained_under() -> None:
    assert READMISSION.hash == GOLDEN_HASH


@pytest.mark.parametrize(("values", "codes"), GOLDEN_VECTORS)
def test_golden_vectors(values: tuple[object, ...], codes: list[int]) -> None:
    row = dict(zip(READMISSION.feature_names, values, strict=True))
    assert READMISSION.encode_row(row).tolist() == [codes]


def test_the_hash_does_not_depend_on_the_process() -> None:
    program = "from medscore_assets.contracts.readmission import READMISSION; print(READMISSION.hash)"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {GOLDEN_HASH}


AGE = Whole("age", "Age.", 0, 120, "years", "aged {value}")
GROUP = Category("group", "Group.", ("a", "b", "c"), {"a": "an a"})
BOOKED = Flag("booked", "Booked.", "booked", "not booked")
SEEN = Moment("seen_at", "When seen.")
SMALL = Contract("small", (SEEN,), (AGE, GROUP, BOOKED))


def changed(contract: Contract, position: int, **changes: object) -> Contract:
    features = list(contract.features)
    features[position] = dataclasses.replace(features[position], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(contract, features=tuple(features))


@pytest.mark.parametrize(
    "other",
    [
        changed(SMALL, 0, minimum=1),
        changed(SMALL, 0, maximum=119),
        changed(SMALL, 0, name="years"),
        changed(SMALL, 1, categories=("b", "a", "c")),
        changed(SMALL, 1, categories=("a", "b")),
        changed(SMALL, 1, categories=("a", "b", "c", "d")),
        changed(SMALL, 1, categories=("a", "b", "C")),
        dataclasses.replace(SMALL, features=(GROUP, AGE, BOOKED)),
        dataclasses.replace(SMALL, features=(AGE, GROUP)),
        dataclasses.replace(SMALL, features=(AGE, GROUP, Whole("booked", "Booked.", 0, 1, "", ""))),
        dataclasses.replace(SMALL, context=(dataclasses.replace(SEEN, required=False),)),
        dataclasses.replace(SMALL, context=()),
        dataclasses.replace(SMALL, name="other"),
    ],
)
def test_a_changed_rule_changes_the_hash(other: Contract) -> None:
    assert other.hash != SMALL.hash


@pytest.mark.parametrize(
    "other",
    [
        changed(
            SMALL, 0, description="Age at discharge.", unit="a", phrase="{value} years old", phrase_one="1"
        ),
        changed(SMALL, 1, phrases={"a": "the first"}, description="Which group."),
        changed(SMALL, 2, phrase_true="yes", phrase_false="no"),
        dataclasses.replace(SMALL, context=(dataclasses.replace(SEEN, description="Seen."),)),
    ],
)
def test_wording_does_not_change_the_hash(other: Contract) -> None:
    assert other.hash == SMALL.hash


def test_monotone_constraints_stand_on_counts_only() -> None:
    constraints = dict(zip(READMISSION.feature_names, READMISSION.monotone_constraints, strict=True))
    assert {name for name, sign in constraints.items() if sign} == {
        "num_prior_admissions_12m",
        "num_chronic_conditions",
        "num_medications_at_discharge",
    }
    assert all(sign in (0, 1) for sign in constraints.values())
