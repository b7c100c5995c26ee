"""The command line as people use it: from an empty home to a list, and its errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medscore_assets import definitions
from medscore_assets.cli import main
from medscore_assets.settings import PROJECT_ROOT, Settings
from resources.embedded_postgres import release


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed, without line ends."""

    returncode: int
    stdout: str
    stderr: str


class Medscore:
    """`medscore` on the installation that the environment names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def started(self, *arguments: str) -> Done:
        """In a process of its own, as people start it."""
        command = [sys.executable, "-m", "medscore_assets.cli", *arguments]
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, " ".join(done.stderr.split()))

    def __call__(self, *arguments: str) -> Done:
        """In this process, through the same entry point."""
        self._monkeypatch.setattr(sys, "argv", ["medscore", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        return Done(int(ended.value.code or 0), " ".join(out.split()), " ".join(err.split()))

    def document(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def medscore(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Medscore:
    return Medscore(monkeypatch, capsys)


@pytest.fixture
def empty_home(homes: Path, clean_environment: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation of its own: a home that nothing else uses, with a database server in it."""
    home = homes / "command-line"
    clean_environment.setenv("MEDSCORE_HOME", str(home))
    clean_environment.setenv("DAGSTER_HOME", str(PROJECT_ROOT))
    # Jobs are run from the definitions of this process, which were made under other settings.
    clean_environment.setattr(definitions, "defs", definitions.build_defs(Settings()))
    yield
    release(home / "postgres")


@pytest.mark.slow
@pytest.mark.usefixtures("empty_home")
def test_from_an_empty_home_to_a_list(medscore: Medscore) -> None:
    upgraded = medscore.started("db", "upgrade")
    assert upgraded.returncode == 0, upgraded.stderr

    findings = {f["name"]: f for f in json.loads(medscore("doctor", "--json").stdout)}
    assert findings["database"]["well"]
    assert findings["source records"]["mend"].startswith("Run: medscore demo load")
    assert "medscore train readmission" in findings["registry and contract"]["mend"]

    nothing = medscore.started("outreach", "make", "--date", "2026-03-02")
    assert nothing.returncode == 1
    assert "champion" in nothing.stderr
    assert "Traceback" not in nothing.stderr

    loaded = medscore("demo", "load", "--until", "2026-03-03", "--days", "420", "--per-day", "60")
    assert loaded.returncode == 0, loaded.stderr
    again = medscore("demo", "load")
    assert again.returncode == 1
    assert "already holds records of demo" in again.stderr

    (model,) = medscore.document("train", "readmission")
    assert (model["version"], model["aliases"]) == (1, ["champion"])
    assert medscore.document("models", "list") == [model]

    made = medscore("outreach", "make", "--date", "2026-03-02")
    assert made.returncode == 0, made.stderr
    shown = medscore.document("outreach", "show", "--date", "2026-03-02", "--top", "5")
    assert [p["rank"] for p in shown["patients"]] == [1, 2, 3, 4, 5]
    assert all(p["disclaimer"] and p["recommended_actions"] and p["top_factors"] for p in shown["patients"])

    text = medscore("outreach", "show", "--top", "3").stdout
    assert "This score is a decision-support tool" in text
    assert "scored" in text

    findings = {f["name"]: f for f in json.loads(medscore("doctor", "--json").stdout)}
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
    medscore: Medscore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDSCORE_HOME", str(settings.home))
    monkeypatch.setenv("MEDSCORE_DATABASE_URL", settings.database_url.get_secret_value())
    told, document = medscore(*arguments), medscore(*arguments, "--json")
    assert (told.returncode, document.returncode) == (1, 1)
    assert said in told.stderr
    assert set(json.loads(document.stdout)["error"]) == {"what", "where", "mend"}
