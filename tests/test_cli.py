"""The command line as people use it: from an empty home to a list, and its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medscore_assets.cli import main
from medscore_assets.settings import PROJECT_ROOT, Settings
from resources.embedded_postgres import release

Result = subprocess.CompletedProcess[str]


class Home:
    """An installation of its own: `medscore` with a home that nothing else uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MEDSCORE_", "DAGSTER_"))}
        self.environment = clean | {"MEDSCORE_HOME": str(folder), "COLUMNS": "200"}

    def medscore(self, *arguments: str) -> Result:
        command = [sys.executable, "-m", "medscore_assets.cli", *arguments]
        return subprocess.run(
            command, cwd=PROJECT_ROOT, env=self.environment, capture_output=True, text=True, check=False
        )

    def document(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        done = self.medscore(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    yield Home(folder)
    release(folder / "postgres")


@pytest.mark.slow
def test_from_an_empty_home_to_a_list(home: Home) -> None:
    upgraded = home.medscore("db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr

    findings = {f["name"]: f for f in json.loads(home.medscore("doctor", "--json").stdout)}
    assert findings["database"]["well"]
    assert findings["source records"]["mend"].startswith("Run: medscore demo load")
    assert "medscore train readmission" in findings["registry and contract"]["mend"]

    nothing = home.medscore("outreach", "make", "--date", "2026-03-02")
    assert nothing.returncode == 1
    assert "champion" in nothing.stderr
    assert "Traceback" not in nothing.stderr

    loaded = home.medscore("demo", "load", "--until", "2026-03-03", "--days", "420", "--per-day", "60")
    assert loaded.returncode == 0, loaded.stderr
    again = home.medscore("demo", "load")
    assert again.returncode == 1
    assert "already holds records of demo" in again.stderr

    (model,) = home.document("train", "readmission")
    assert (model["version"], model["aliases"]) == (1, ["champion"])
    assert home.document("models", "list") == [model]

    made = home.medscore("outreach", "make", "--date", "2026-03-02")
    assert made.returncode == 0, made.stderr
    shown = home.document("outreach", "show", "--date", "2026-03-02", "--top", "5")
    assert [p["rank"] for p in shown["patients"]] == [1, 2, 3, 4, 5]
    assert all(p["disclaimer"] and p["recommended_actions"] and p["top_factors"] for p in shown["patients"])

    text = home.medscore("outreach", "show", "--top", "3").stdout
    assert "This score is a decision-support tool" in text
    assert "scored" in text

    findings = {f["name"]: f for f in json.loads(home.medscore("doctor", "--json").stdout)}
    assert findings["registry and contract"]["well"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "uci-diabetes", "absent.csv", "absent.csv"), "absent.csv"),
        (("outreach", "show", "--date", "1999-01-01"), "there is no list of 1999-01-01"),
        (("outreach", "make", "--date", "2999-01-01"), "the window of 2999-01-01 is not closed"),
    ],
)
def test_an_error_is_one_sentence_with_its_mend(
    settings: Settings,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MEDSCORE_HOME", str(settings.home))
    monkeypatch.setenv("MEDSCORE_DATABASE_URL", settings.database_url.get_secret_value())

    def told(*more: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["medscore", *arguments, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        out, err = capsys.readouterr()
        return out, " ".join(err.split())

    assert said in told()[1]
    assert set(json.loads(told("--json")[0])["error"]) == {"what", "where", "mend"}
