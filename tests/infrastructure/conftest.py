"""What the tests of the infrastructure share: one whole platform, which comes up beside the first of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from medscore_assets import tables
from medscore_assets.database import prepare
from medscore_assets.definitions import default_resources
from medscore_assets.partitions import closed_mornings
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.settings import Settings
from resources.embedded_postgres import release
from resources.registry import CHAMPION
from resources.warehouse import Warehouse
from tests.infrastructure.services import Up, starting
from tests.infrastructure.warehouse_tables import metadata
from tests.readmission.records import clean_day
from tests.readmission.test_outreach import add, rows_of

MEDSCORE = Path(sys.executable).parent / "medscore"
ROWS = 20


@dataclass(frozen=True)
class Platform:
    """A running `medscore up`, and three days that have records and had no list when it began."""

    up: Up
    settings: Settings
    warehouse: Warehouse
    days: list[str]

    def made(self) -> dict[str, int]:
        """How many are on each list that is there, by day."""
        lists = rows_of(self.warehouse, tables.outreach_lists)
        return {str(row["score_date"]): row["scored"] for row in lists}

    def runs(self) -> Counter[tuple[str, str]]:
        """How many runs of the outreach job there were, by day and how they ended."""
        # Dagster's driver is another one.
        address = self.settings.databases().dagster.replace("+psycopg2", "")
        query = "SELECT partition, status FROM runs WHERE pipeline_name = 'readmission_outreach'"
        with psycopg.connect(address) as connection:
            return Counter(connection.execute(query).fetchall())


@pytest.fixture(scope="package", autouse=True)
def begun_early(request: pytest.FixtureRequest) -> None:
    """Lets the platform come up while other tests run, if a test of this session asks for it.

    Its processes are busy for a minute before all is there, and no test has to wait for that.
    """
    if any("platform" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("platform")


@pytest.fixture(scope="package")
def platform(
    homes: Path, model: ReadmissionModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """Its home has a champion, and a PostgreSQL that is stopped. Its schedules are on."""
    days = closed_mornings(3, until=datetime.now(UTC) - timedelta(hours=1))
    settings = Settings(home=homes / "platform")
    prepare(settings.databases())
    resources = default_resources(settings)
    warehouse, registry = resources["warehouse"], resources["registry"]
    for number, day in enumerate(days):
        add(warehouse, clean_day(day, ROWS, first_number=1000 * number))
    files = tmp_path_factory.mktemp("champion")
    model.save(files)
    registry.set_alias(MODEL, registry.register(MODEL, files), CHAMPION)
    warehouse.close()
    assert release(settings.postgres_directory)
    with starting(settings.home) as start:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MEDSCORE_SCHEDULES", "running")
            environment.setenv("MEDSCORE_FIRST_DAY", days[0])
            up = start(MEDSCORE, "up")
        yield Platform(up, settings, warehouse, days)
    warehouse.close()
    release(settings.postgres_directory)


@pytest.fixture
def store(warehouse: Warehouse) -> Warehouse:
    """A warehouse with the tables of `warehouse_tables.py`."""
    with warehouse.transaction() as connection:
        metadata.create_all(connection)
    return warehouse
