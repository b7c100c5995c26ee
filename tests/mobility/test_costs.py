"""The cost of mobility forecasts: sums that can be checked by hand, and files that are wrong."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from medscore_assets.cli import app
from medscore_assets.mobility import costs
from resources.errors import PermanentError
from resources.lake import Dataset, Lake

RATES = costs.Rates.model_validate(
    {
        "measured_on": "paper",
        "history_days": 100,
        "always_on_vcpus": 1,
        "storage": [
            {"dataset": "a", "rows_per_patient_day": 50, "bytes_per_row": 4, "basis": "c"},
            {"dataset": "b", "rows_per_patient_day": 1, "bytes_per_row": 100, "basis": "c"},
        ],
        "work": [
            {
                "work": "w",
                "unit": "rows",
                "rows_per_patient": 36,
                "runs_a_month": 10,
                "history_rows_per_patient_day": 18,
                "rows_per_cpu_second": 1_000,
                "basis": "c",
            }
        ],
        "training": [
            {
                "work": "t",
                "unit": "fits",
                "fits": 3,
                "runs_a_month": 4,
                "cpu_seconds_per_fit": 900,
                "basis": "c",
            }
        ],
        "questions": {"dataset": "b", "questions_a_month": 50},
    }
)
PRICES = costs.UnitPrices(storage_gb_month=0.5, cluster_hour=20, cluster_vcpus=10, scanned_tb=5)


def test_an_estimate_is_the_sum_of_lines_that_can_be_checked_by_hand() -> None:
    found = costs.estimate(100_000, 100, RATES, PRICES)
    assert [(line.item, line.usd) for line in found.monthly] == [
        # 10 million patient-days x 50 x 4 bytes = 2 GB; x 100 bytes = 1 GB.
        ("Storage of a", pytest.approx(2 * 0.5)),
        ("Storage of b", pytest.approx(1 * 0.5)),
        # 3.6 million rows a run are 3,600 CPU-seconds, ten times: 10 vCPU-hours at $2.
        ("w", pytest.approx(10 * 2)),
        # 12 fits of a quarter of an hour: 3 vCPU-hours.
        ("t", pytest.approx(3 * 2)),
        # 50 times 0.001 TB.
        ("Ad-hoc questions on b, if Athena answers them", pytest.approx(50 * 0.001 * 5)),
    ]
    assert found.total == pytest.approx(1 + 0.5 + 20 + 6 + 0.25)
    # 180 million rows once: 50 vCPU-hours.
    assert [line.usd for line in found.once] == [pytest.approx(50 * 2)]
    assert found.always_on.usd == pytest.approx(720 * 2)
    # 13 of 720 hours.
    assert "takes 1.81% of it" in found.always_on.arithmetic
    assert "100,000 patients x 100 days x 50 rows x 4 bytes = 2.00 GB; x $0.5" == found.monthly[0].arithmetic


def test_the_documents_own_prices_come_to_more_than_three_times_its_claim() -> None:
    bill = costs.document_bill(costs.load_prices().document)
    assert [(line["claimed_usd"], line["usd"]) for line in bill["lines"]] == [
        (50, pytest.approx(1000 * 0.023)),
        (200, pytest.approx(15 * 2 * 30)),
        (100, pytest.approx(10 * 4 * 30 / 7, abs=0.005)),
        (150, pytest.approx(20 * 30)),
    ]
    assert (bill["claimed_usd_a_month"], round(bill["usd_a_month"], -2)) == (500, 1700)
    assert bill["lines"][2]["arithmetic"] == "$10 a model x 4 models x 30/7 weekly runs"


def test_sizes_are_those_of_the_lake_that_is_there(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    dataset = Dataset("a", pa.schema([("n", pa.int64())]))
    for day, rows in ((date(2026, 1, 1), 10), (date(2026, 1, 2), 30)):
        lake.write_day(dataset, day, pa.table({"n": range(rows)}))
    on_disk = sum(file.stat().st_size for file in tmp_path.rglob("*.parquet"))
    sizes = costs.measured_sizes(lake, RATES)
    assert sizes == {"a": on_disk / 40}
    storage = costs.with_sizes(RATES, sizes).storage
    assert [s.bytes_per_row for s in storage] == [on_disk / 40, 100]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("source = 'me'\n[unit]\nstorage_gb_month = -1", "unit.storage_gb_month: input should be greater"),
        ("source = 'me'", "unit: field required"),
        ("source = me", "this is not TOML"),
        (None, "the file cannot be read"),
    ],
)
def test_a_price_file_that_is_wrong_is_named_with_its_first_fault(
    tmp_path: Path, wrong: str | None, says: str
) -> None:
    file = tmp_path / "prices.toml"
    if wrong is not None:
        file.write_text(wrong)
    with pytest.raises(PermanentError, match=f"{says}.*prices.toml"):
        costs.load_prices(file)


def test_the_command_prices_with_the_file_that_is_given(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        "source = 'me'\n[unit]\nstorage_gb_month = 1\ncluster_hour = 1\ncluster_vcpus = 1\nscanned_tb = 1\n"
    )
    arguments = ["mobility", "cost", "--patients", "7", "--days", "3", "--prices", str(file), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    own = costs.estimate(7, 3, costs.load_rates(), costs.load_prices(file).unit)
    assert (document["patients"], document["days"], document["prices"]) == (7, 3, "me")
    assert document["usd_a_month"] == round(own.total, 2)
    assert document["source_document"]["usd_a_month"] == 1694.43
    shown = CliRunner().invoke(app, arguments[:-1])
    assert all(text in shown.stdout for text in ("1,694.43", "500.00", "7 patients"))
