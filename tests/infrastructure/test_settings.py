"""Settings: what is taken, what is refused, and what follows from them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medscore_assets.database_addresses import without_password
from medscore_assets.settings import PROJECT_ROOT, Settings
from resources.errors import PermanentError

SECRET = "s3cr3t-p4ss"
VERIFIED = "sslmode=verify-full&sslrootcert=/roots.pem"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_way_to_write_the_address_ends_in_the_driver_of_each_user(
    clean_environment: pytest.MonkeyPatch, scheme: str
) -> None:
    clean_environment.setenv(
        "MEDSCORE_DATABASE_URL", f"{scheme}://me:p%40ss@db.example:5433/medscore?{VERIFIED}"
    )
    found = Settings(_env_file=None).databases()
    rest = f"://me:p%40ss@db.example:5433/medscore{{}}?{VERIFIED}"
    assert found.warehouse == "postgresql+psycopg" + rest.format("")
    assert found.dagster == "postgresql+psycopg2" + rest.format("_dagster")
    assert found.mlflow == "postgresql+psycopg" + rest.format("_mlflow")


def test_each_other_database_can_be_set_on_its_own(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("MEDSCORE_DATABASE_URL", f"postgresql://h/medscore?{VERIFIED}")
    clean_environment.setenv("MEDSCORE_MLFLOW_DATABASE_URL", f"postgres://other/models?{VERIFIED}")
    found = Settings(_env_file=None).databases()
    assert found.dagster == f"postgresql+psycopg2://h/medscore_dagster?{VERIFIED}"
    assert found.mlflow == f"postgresql+psycopg://other/models?{VERIFIED}"


@pytest.fixture
def no_other_roots(clean_environment: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine that trusts the authorities in /roots.pem (there is no such file), and names no others."""
    clean_environment.setenv("HOME", str(tmp_path))
    for name in ("PGSSLROOTCERT", "PGHOST", "PGHOSTADDR", "PGSERVICE"):
        clean_environment.delenv(name, raising=False)
    clean_environment.setattr("medscore_assets.database_tls._trusted_roots", lambda: "/roots.pem")
    return clean_environment


TRUSTED = "sslmode=verify-full&sslrootcert=%2Froots.pem"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("user:pass@warehouse:5432/medscore", f"user:pass@warehouse:5432/medscore?{TRUSTED}"),
        ("h/m?application_name=x", f"h/m?application_name=x&{TRUSTED}"),
        ("h/m?sslmode=verify-full", "h/m?sslmode=verify-full&sslrootcert=%2Froots.pem"),
        ("h/m?sslrootcert=/my.pem", "h/m?sslrootcert=/my.pem&sslmode=verify-full"),
        ("h/m?sslmode=verify-full&sslrootcert=/my.pem", "h/m?sslmode=verify-full&sslrootcert=/my.pem"),
        ("10.0.0.5/m", f"10.0.0.5/m?{TRUSTED}"),
        ("[2001:db8::1]:5432/m", f"[2001:db8::1]:5432/m?{TRUSTED}"),
        ("localhost/m?host=h", f"localhost/m?host=h&{TRUSTED}"),
        ("localhost/m?hostaddr=10.0.0.5", f"localhost/m?hostaddr=10.0.0.5&{TRUSTED}"),
        ("/m?host=%2Frun%2Fpg,h", f"/m?host=%2Frun%2Fpg,h&{TRUSTED}"),
        ("/m?service=warehouse", f"/m?service=warehouse&{TRUSTED}"),
        ("localhost.example/m", f"localhost.example/m?{TRUSTED}"),
        ("me:pa:ss@localhost/m", "me:pa:ss@localhost/m"),
        ("localhost:5433/m", "localhost:5433/m"),
        ("127.0.0.1/m?sslmode=disable", "127.0.0.1/m?sslmode=disable"),
        ("[::1]:5432/m", "[::1]:5432/m"),
        ("/m?host=::1", "/m?host=::1"),
        ("me@/m?host=/run/pg", "me@/m?host=/run/pg"),
        ("%2Frun%2Fpg/m", "%2Frun%2Fpg/m"),
        ("/m", "/m"),
    ],
)
def test_an_address_on_another_machine_asks_for_a_verified_server(
    no_other_roots: pytest.MonkeyPatch, given: str, taken: str
) -> None:
    for variable in ("DATABASE_URL", "DAGSTER_DATABASE_URL", "MLFLOW_DATABASE_URL"):
        no_other_roots.setenv(f"MEDSCORE_{variable}", f"postgresql://{given}")
        url = getattr(Settings(_env_file=None), variable.lower())
        assert url.get_secret_value() == f"postgresql://{taken}"


@pytest.mark.parametrize("variable", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
def test_a_host_that_only_the_environment_names_counts_too(
    no_other_roots: pytest.MonkeyPatch, variable: str
) -> None:
    no_other_roots.setenv(variable, "10.0.0.5")
    url = Settings(_env_file=None, database_url="postgresql:///m").database_url
    assert url is not None
    assert url.get_secret_value() == f"postgresql:///m?{TRUSTED}"


def test_root_certificates_that_libpq_is_told_of_stay(
    no_other_roots: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def taken() -> str:
        url = Settings(_env_file=None, database_url="postgresql://h/m").database_url
        assert url is not None
        return url.get_secret_value()

    no_other_roots.setenv("PGSSLROOTCERT", "/other.pem")
    assert taken() == "postgresql://h/m?sslmode=verify-full"
    no_other_roots.delenv("PGSSLROOTCERT")
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert taken() == "postgresql://h/m?sslmode=verify-full"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "VERIFY-FULL"])
def test_a_weaker_mode_to_another_machine_is_refused_unless_it_is_allowed(
    no_other_roots: pytest.MonkeyPatch, mode: str
) -> None:
    weak = f"postgresql://me:{SECRET}@h/m?sslmode={mode}"
    for variable in ("DATABASE_URL", "DAGSTER_DATABASE_URL", "MLFLOW_DATABASE_URL"):
        with no_other_roots.context() as only:
            only.setenv(f"MEDSCORE_{variable}", weak)
            with pytest.raises(PermanentError, match=r"weaker .* MEDSCORE_DATABASE_INSECURE") as caught:
                Settings(_env_file=None)
            assert f"MEDSCORE_{variable} " in str(caught.value)
            assert SECRET not in str(caught.value)
            with pytest.raises(PermanentError, match="weaker"):
                Settings(_env_file=None, **{variable.lower(): f"{weak}&sslmode=verify-full"})
            only.setenv("MEDSCORE_DATABASE_INSECURE", "true")
            url = getattr(Settings(_env_file=None), variable.lower())
            assert url.get_secret_value() == weak


def test_what_is_allowed_is_not_what_is_done_by_default(no_other_roots: pytest.MonkeyPatch) -> None:
    url = Settings(_env_file=None, database_insecure=True, database_url="postgresql://h/m").database_url
    assert url is not None
    assert url.get_secret_value() == f"postgresql://h/m?{TRUSTED}"


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
