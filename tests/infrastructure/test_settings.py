"""Settings: what is taken, what is refused, and what follows from them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medscore_assets.settings import PROJECT_ROOT, Settings, without_password
from resources.errors import PermanentError

SECRET = "s3cr3t-p4ss"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_way_to_write_the_address_ends_in_the_driver_of_each_user(
    clean_environment: pytest.MonkeyPatch, scheme: str
) -> None:
    clean_environment.setenv(
        "MEDSCORE_DATABASE_URL", f"{scheme}://me:p%40ss@db.example:5433/medscore?sslmode=verify-full"
    )
    found = Settings(_env_file=None).databases()
    rest = "://me:p%40ss@db.example:5433/medscore{}?sslmode=verify-full"
    assert found.warehouse == "postgresql+psycopg" + rest.format("")
    assert found.dagster == "postgresql+psycopg2" + rest.format("_dagster")
    assert found.mlflow == "postgresql+psycopg" + rest.format("_mlflow")


def test_each_other_database_can_be_set_on_its_own(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("MEDSCORE_DATABASE_URL", "postgresql://h/medscore")
    clean_environment.setenv("MEDSCORE_MLFLOW_DATABASE_URL", "postgres://other/models")
    found = Settings(_env_file=None).databases()
    assert found.dagster == "postgresql+psycopg2://h/medscore_dagster"
    assert found.mlflow == "postgresql+psycopg://other/models"


def test_paths_start_at_the_project_and_not_at_the_working_directory(
    clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean_environment.chdir(tmp_path)
    assert Settings(_env_file=None).home == PROJECT_ROOT / ".medscore"
    clean_environment.setenv("MEDSCORE_HOME", "here")
    assert Settings(_env_file=None).home == PROJECT_ROOT / "here"
    clean_environment.setenv("MEDSCORE_HOME", str(tmp_path))
    assert Settings(_env_file=None).mlflow_artifacts_url == (tmp_path / "mlflow").as_uri()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://me:{SECRET}@h/x"),
        ("DATABASE_URL", f"postgresql://me:{SECRET}@h"),
        ("DATABASE_URL", f"me:{SECRET}@h/x"),
        ("DAGSTER_DATABASE_URL", f"sqlite:///{SECRET}"),
        ("TIMEZONE", "Mars/Olympus"),
        ("TIMEZONE", "../../etc/passwd"),
        ("FIRST_DAY", "2024-02-30"),
        ("SCHEDULES", "on"),
        ("MLFLOW_PORT", "70000"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_variable_and_not_the_value(
    clean_environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    clean_environment.setenv(f"MEDSCORE_{name}", value)
    with pytest.raises(PermanentError) as caught:
        Settings(_env_file=None)
    message = str(caught.value)
    assert f"MEDSCORE_{name}" in message
    assert "\n" not in message
    assert SECRET not in message
    assert caught.value.__suppress_context__


def test_a_misspelt_variable_is_refused_with_the_right_one(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("MEDSCORE_DATABSE_URL", f"postgresql://me:{SECRET}@h/x")
    with pytest.raises(PermanentError, match=r"Did you mean MEDSCORE_DATABASE_URL\?") as caught:
        Settings(_env_file=None)
    assert SECRET not in str(caught.value)


def test_an_empty_variable_is_an_unset_one(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("MEDSCORE_DATABASE_URL", "")
    assert Settings(_env_file=None).database_url is None


def test_no_password_is_shown(clean_environment: pytest.MonkeyPatch) -> None:
    url = f"postgresql://me:{SECRET}@h/medscore?sslpassword={SECRET}"
    clean_environment.setenv("MEDSCORE_DATABASE_URL", url)
    settings = Settings(_env_file=None)
    for shown in (
        repr(settings),
        repr(settings.databases()),
        str(settings.databases()),
        without_password(url),
    ):
        assert SECRET not in shown


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_load_without_the_heavy_libraries() -> None:
    program = (
        "import sys, medscore_assets.settings;"
        "print({'sqlalchemy', 'psycopg', 'pyarrow', 'dagster', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
