"""The code location: it loads, quickly, and without what only assets need."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from docs import generate
from medscore_assets.definitions import build_defs
from medscore_assets.settings import Settings
from resources.errors import PermanentError

ROOT = Path(__file__).parents[1]
HEAVY = ("mlflow", "xgboost", "interpret", "statsmodels", "pyspark", "sklearn", "scipy", "pandas", "numba")


def test_everything_loads_and_every_job_resolves() -> None:
    dg.Definitions.validate_loadable(build_defs())


@pytest.mark.parametrize("other", [{"timezone": "Europe/Berlin"}, {"first_day": date(2020, 5, 4)}])
def test_settings_that_disagree_with_the_partitions_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(PermanentError, match=r"mornings from .* are asked for") as refused:
        build_defs(Settings(**other))
    assert "MEDSCORE_TIMEZONE" in refused.value.where
    assert str(next(iter(other.values()))) in refused.value.what


def test_heavy_libraries_are_not_imported_by_the_code_location() -> None:
    script = (
        "import json, sys, medscore_assets.definitions;"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def _asset_modules() -> list[Path]:
    folders = ("sensors", "schedules")
    named = ("assets.py", "checks.py", "definitions.py", "partitions.py", "catalog.py", "maintenance.py")
    files = [f for folder in folders for f in (ROOT / folder).rglob("*.py")]
    return files + [f for f in (ROOT / "medscore_assets").rglob("*.py") if f.name.endswith(named)]


@pytest.mark.parametrize("file", _asset_modules(), ids=lambda f: str(f.relative_to(ROOT)))
def test_modules_that_dagster_inspects_keep_their_annotations(file: Path) -> None:
    imports = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom)]
    assert not [n for n in imports if n.module == "__future__"], "annotations would be strings to Dagster"


def test_the_reference_pages_say_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(check=True) == 0, capsys.readouterr().err


def test_pandera_does_not_make_arrow_forget_time_zones() -> None:
    script = (
        "import medscore_assets, pandera.pandas, pyarrow as pa;"
        "from datetime import datetime; from zoneinfo import ZoneInfo;"
        "noon = datetime(2026, 3, 2, 12, tzinfo=ZoneInfo('America/New_York'));"
        "print(pa.array([noon], pa.timestamp('us', 'UTC'))[0].as_py().hour)"
    )
    for prelude, hour in (("", "17"), ("import pandera.pandas;", "12")):
        # Without the package's guard the same lines give the wrong hour: the guard is what is tested.
        bare = script if not prelude else prelude + script.replace("import medscore_assets, ", "import ")
        environment = {k: v for k, v in os.environ.items() if k != "PYARROW_IGNORE_TIMEZONE"}
        done = subprocess.run(
            [sys.executable, "-c", bare],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == hour
