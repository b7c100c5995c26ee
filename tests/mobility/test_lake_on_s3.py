"""A lake on S3 from a file of minutes to forecasts, by the settings alone; a late file re-opens its day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from medscore_assets import tables
from medscore_assets.cli.records import importing
from medscore_assets.definitions import build_defs
from medscore_assets.lake_access import open_lake
from medscore_assets.mobility.daily import DAILY_STEPS
from medscore_assets.mobility.importers import fitabase
from medscore_assets.mobility.jobs import DAILY_JOB
from medscore_assets.settings import Settings
from resources.lake import Lake
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse
from sensors import late_steps
from tests.mobility.walks import days_from

DAYS = days_from(date(2026, 1, 5), 3)
KEYS = [day.isoformat() for day in DAYS]
QUIET = {"log_level": "CRITICAL"}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A bucket of moto's server, and the settings that name it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("MEDSCORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEDSCORE_LAKE", "s3://lake/of/steps")
    monkeypatch.setenv("MEDSCORE_LAKE_S3_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("MEDSCORE_LAKE_S3_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="lake")
    yield
    server.stop()


def wide(file: Path, day: date, hour: int, steps: int) -> Path:
    """An hour of two people, in Fitabase's wide form: all of its steps in the first minutes."""
    header = [fitabase.PERSON, fitabase.HOUR, *fitabase.MINUTES]
    counts = [str(min(200, max(0, steps - 200 * minute))) for minute in range(60)]
    lines = [header, *([person, f"{day:%m/%d/%Y} {hour}:00", *counts] for person in ("a", "b"))]
    file.write_text("".join(",".join(line) + "\n" for line in lines))
    return file


def import_file(file: Path) -> None:
    done = CliRunner().invoke(importing, ["fitabase", str(file), "--zone", "America/New_York"])
    assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_a_lake_on_s3_goes_from_minutes_to_forecasts_and_a_late_file_reopens_its_day(
    tmp_path: Path,
    warehouse: Warehouse,
    empty_registry: ModelRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(late_steps, "closed_step_days", lambda days, until: KEYS)
    sensor = late_steps.late_steps_sensor(Settings(), DAILY_JOB)
    lake = open_lake(Settings())

    def tick() -> dg.RunRequest | dg.SkipReason:
        context = dg.build_sensor_context(resources={"lake": lake, "warehouse": warehouse})
        asked = sensor(context)
        assert isinstance(asked, dg.RunRequest | dg.SkipReason)
        return asked

    for place, day in enumerate(DAYS):
        import_file(wide(tmp_path / "minutes.csv", day, hour=9, steps=1_000 * (place + 1)))
    skipped = tick()
    assert isinstance(skipped, dg.SkipReason)
    assert "No day of steps was made yet" in str(skipped.skip_message)

    ends = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}
    defs = build_defs(lake=lake, warehouse=warehouse, registry=empty_registry)
    with dg.DagsterInstance.ephemeral() as instance:
        made = defs.resolve_job_def(DAILY_JOB).execute_in_process(
            instance=instance, tags=ends, run_config={"loggers": {"console": {"config": QUIET}}}
        )
    assert made.success
    assert steps(lake) == [1_000, 2_000, 3_000]
    forecasts = tables.mobility_forecasts
    tomorrow = sa.select(forecasts).where(forecasts.c.forecast_day == DAYS[-1] + timedelta(days=1))
    told = {(row["patient_id"], row["expected_steps"]) for row in warehouse.read(tomorrow).to_pylist()}
    assert told == {("a", 2_000.0), ("b", 2_000.0)}
    assert isinstance(tick(), dg.SkipReason)

    import_file(wide(tmp_path / "late.csv", DAYS[1], hour=10, steps=600))
    asked = tick()
    assert isinstance(asked, dg.RunRequest)
    # The days beside it look into the folder of the late file, too.
    assert asked.tags == ends
    assert tick() == asked


def steps(lake: Lake) -> list[int]:
    """What the first person walked, day by day."""
    return [lake.read_day(DAILY_STEPS, day)["steps"].to_pylist()[0] for day in DAYS]
