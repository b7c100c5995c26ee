"""What the declarations of all tables share: naming of keys, types, comments, check constraints.

Belongs here: what more than one family of tables uses. Does not belong here: any table.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from medscore_assets.contracts.readmission import READMISSION

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

TIMESTAMP = sa.DateTime(timezone=True)
SAYS = {
    "encounter_id": READMISSION.fields["encounter_id"].description,
    "patient_id": READMISSION.fields["patient_id"].description,
    "hospital_id": READMISSION.fields["hospital_id"].description,
    "discharged_at": READMISSION.fields["discharged_at"].description,
    "score_date": "The day on which the window of the list opens, at 06:00.",
    "event_id": "Counts the rows in the order of their arrival.",
    "ingested_at": "When the row arrived.",
    "contract_hash": "The contract under which this was made.",
    "model_name": "The model's name in the registry.",
    "model_version": "The model's version in the registry.",
    "policy_version": "The version that the policy gives itself.",
    "policy_hash": "The hash of the policy's rules.",
    "disclaimer": "The policy's disclaimer, word for word.",
    "field": "The field whose rule was broken.",
    "reason": "Why, in one word.",
}
"""What columns mean whose name means the same wherever it stands."""
PROBABILITY = sa.Double()


def one_of(column: str, values: tuple[str, ...]) -> str:
    """The rule that a column holds one of these values."""
    return f"{column} IN ({', '.join(repr(v) for v in values)})"


def probability_check(column: str) -> sa.CheckConstraint:
    """The rule that a column lies in 0 to 1."""
    return sa.CheckConstraint(f"{column} BETWEEN 0 AND 1", name=column)


def column(name: str, *arguments: Any, **options: Any) -> sa.Column[Any]:
    """A column whose comment follows from its name (`SAYS`)."""
    return sa.Column(name, *arguments, comment=SAYS[name], **options)
