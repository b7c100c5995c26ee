"""Small files in the form of the public diabetes records."""

from __future__ import annotations

from collections.abc import Callable

from medscore_assets.demo.uci_diabetes import UciData

ENCOUNTER = {
    "encounter_id": "1000",
    "patient_nbr": "77",
    "gender": "Female",
    "age": "[70-80)",
    "admission_type_id": "1",
    "discharge_disposition_id": "1",
    "admission_source_id": "7",
    "time_in_hospital": "3",
    "payer_code": "MC",
    "num_medications": "12",
    "number_inpatient": "2",
    "diag_1": "428",
    "number_diagnoses": "9",
    "max_glu_serum": "None",
    "readmitted": "NO",
}

CODE_TABLES = """admission_type_id,description
1,Emergency
2,Urgent
3,Elective
4,Newborn
,
discharge_disposition_id,description
{dispositions}
,
admission_source_id,description
1, Physician Referral
7, Emergency Room
11,Normal Delivery
"""
DISPOSITION_NAMES = dict.fromkeys(range(1, 31), "Other") | {
    11: "Expired",
    13: "Hospice / home",
    14: "Hospice / medical facility",
    19: '"Expired at home. Medicaid only, hospice."',
    20: "Expired",
    21: "Expired",
}
MAPPING = CODE_TABLES.format(
    dispositions="\n".join(f"{code},{name}" for code, name in DISPOSITION_NAMES.items())
)
HEADER = ",".join(ENCOUNTER)
ROW = ",".join(ENCOUNTER.values())
Import = Callable[..., UciData]
