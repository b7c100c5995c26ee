from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from medscore_assets.wait_times import registry
from medscore_assets.wait_times.model import Model, version_order
from medscore_assets.wait_times.models.document import DocumentMovingAverage
from medscore_assets.wait_times.models.moving_average import MovingAverage60, MovingAverage120
from medscore_assets.wait_times.registry import ENTRY_POINTS, load_models, locked
from resources.errors import PermanentError

HERE = __name__


class Newer(MovingAverage60):
    version = "1.10.0"


class Older(MovingAverage60):
    version = "1.9.0"


class Foreign(MovingAverage60):
    name = "foreign"


class Nameless(Model):
    version = "1.0.0"

    def predict(self, data: Any, as_of: Any) -> None:
        return None


class Unfinished(Model):
    name = "unfinished"
    version = "1.0.0"


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], registry.Registry]:
    """Loads what a TOML text enables."""

    def loaded(text: str) -> registry.Registry:
        file = tmp_path / "models.toml"
        file.write_text(text)
        return load_models(file)

    return loaded


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets another package offer models: name and place."""

    def install(**points: str) -> None:
        found = [EntryPoint(name, place, ENTRY_POINTS) for name, place in points.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: found if group == ENTRY_POINTS else [])

    return install


def test_the_models_that_come_with_it_all_load() -> None:
    found = load_models()
    assert found.failures == ()
    assert len(found.models) >= 9
    assert {found.kind(model.name) for model in found.models} == {"built_in"}
    assert len({model.fingerprint() for model in found.models}) == len(found.models)
    names = [model.name for model in found.models]
    assert names[0] == "moving_average_60"
    assert {"ets", "arima", "life_table", "queue_fluid", "quantile_boosting"} <= set(names)


def test_only_what_is_enabled_runs_and_nothing_because_it_is_a_subclass(load: Callable) -> None:
    found = load('enabled = ["moving_average_120"]')
    assert [model.name for model in found.models] == ["moving_average_120"]
    assert Foreign in MovingAverage60.__subclasses__()


def test_the_walk_of_the_document_runs_a_model_several_times() -> None:
    """Its `get_concrete_models` extends the list that it goes through, so that depth multiplies."""

    def concrete(kind: type) -> list[type]:
        classes = list(kind.__subclasses__())
        for found in classes:
            classes.extend(concrete(found))
        return classes

    assert concrete(Model).count(Foreign) > 1


def test_a_model_of_another_package_is_found_by_its_name(load: Callable, installed: Callable) -> None:
    installed(foreign=f"{HERE}:Foreign")
    found = load('enabled = ["moving_average_60", "foreign"]')
    assert [model.name for model in found.models] == ["moving_average_60", "foreign"]
    assert (found.kind("foreign"), found.failures) == ("plugin", ())


def test_a_model_that_cannot_be_imported_takes_no_other_along(
    load: Callable, installed: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves_at_import.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    installed(gone="no_such_package:Model", leaves="leaves_at_import:Model", nameless=f"{HERE}:Nameless")
    found = load('enabled = ["gone", "leaves", "nameless", "moving_average_60"]')
    assert [model.name for model in found.models] == ["moving_average_60"]
    assert [failure.name for failure in found.failures] == ["gone", "leaves", "nameless"]
    assert "no_such_package" in found.failures[0].reason
    assert "name and version" in found.failures[2].reason


@pytest.mark.parametrize(
    ("name", "place", "says"),
    [
        ("unfinished", f"{HERE}:Unfinished", "predict"),
        ("other", f"{HERE}:Foreign", "calls itself foreign"),
        ("text", f"{HERE}:HERE", "not callable"),
        ("path", "pathlib:Path", "Not a model"),
    ],
)
def test_what_is_no_model_of_that_name_is_a_failure(
    name: str, place: str, says: str, load: Callable, installed: Callable
) -> None:
    installed(**{name: place})
    (failure,) = load(f'enabled = ["{name}", "moving_average_60"]').failures
    assert says in failure.reason


def test_versions_are_ordered_as_numbers_and_can_run_side_by_side(
    load: Callable, installed: Callable
) -> None:
    assert version_order("0.0.10") > version_order("0.0.9")
    versions = [
        EntryPoint("moving_average_60", f"{HERE}:{kind}", ENTRY_POINTS) for kind in ("Newer", "Older")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lambda group: versions)
        newest = load('enabled = ["moving_average_60"]')
        both = load('enabled = ["moving_average_60@1.9.0", "moving_average_60"]')
        missing = load('enabled = ["moving_average_60@3.0.0", "moving_average_120"]')
    assert [model.version for model in newest.models] == ["1.10.0"]
    assert [model.version for model in both.models] == ["1.9.0", "1.10.0"]
    assert both.named("moving_average_60").version == "1.10.0"
    assert both.named("moving_average_60", "1.9.0").version == "1.9.0"
    assert both.named("moving_average_60", "2.0.0") is None
    assert "3.0.0" in missing.failures[0].reason


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("enabled = []", "enabled"),
        ("", "enabled"),
        ('enabled = ["moving_average_60", "no_such_model"]', "There is no model no_such_model"),
        ('enabled = ["moving_average_60", "moving_average_60"]', "called moving_average_60 1.0.0"),
        ('enabled = ["moving_average_60"]\ncalibrated = ["ets"]', "ets cannot be calibrated"),
        ('enable = ["moving_average_60"]', "Extra inputs"),
        ("enabled = [", "not TOML"),
    ],
)
def test_a_list_of_models_that_cannot_be_meant_is_refused(text: str, says: str, load: Callable) -> None:
    with pytest.raises(PermanentError, match=says):
        load(text)


def test_a_list_of_which_nothing_is_left_is_refused(load: Callable, installed: Callable) -> None:
    installed(gone="no_such_package:Model")
    with pytest.raises(PermanentError, match="Not one model can run"):
        load('enabled = ["gone"]')
    with pytest.raises(PermanentError, match="missing"):
        load_models(Path("/no/such/models.toml"))


def test_a_calibrated_model_runs_beside_the_one_that_it_corrects(load: Callable) -> None:
    found = load('enabled = ["moving_average_60"]\ncalibrated = ["moving_average_60"]')
    assert [model.name for model in found.models] == ["moving_average_60", "moving_average_60_calibrated"]


def test_an_entry_over_http_that_cannot_be_read_takes_no_other_along(load: Callable) -> None:
    found = load('enabled = ["moving_average_60"]\n[[http]]\nname = "far"\nurl = "gopher://example.org"')
    assert [model.name for model in found.models] == ["moving_average_60"]
    assert [failure.name for failure in found.failures] == ["far"]


def test_a_model_over_http_is_named_by_its_entry_and_refused_as_a_double(load: Callable) -> None:
    entry = '[[http]]\nname = "{}"\nurl = "https://models.example.org"'
    found = load(f'enabled = ["moving_average_60"]\n{entry.format("far")}')
    assert (found.models[1].name, found.kind("far")) == ("far", "http")
    with pytest.raises(PermanentError, match="called moving_average_60"):
        load(f'enabled = ["moving_average_60"]\n{entry.format("moving_average_60")}')


def test_a_changed_model_needs_another_version() -> None:
    models = [MovingAverage60(), MovingAverage120(), DocumentMovingAverage()]
    known = {model.identity(): model.fingerprint() for model in models[:2]}
    assert locked(models, known) == (models, [])
    models[0].min_patients = 9
    allowed, refused = locked(models, known)
    assert [model.name for model in allowed] == ["moving_average_120", "document_moving_average"]
    assert [failure.name for failure in refused] == ["moving_average_60"]
    assert refused[0].reason.endswith("raise the version")
    models[0].version = "1.0.1"
    assert locked(models, known) == (models, [])


def test_loading_models_needs_none_of_the_heavy_libraries() -> None:
    script = (
        "import sys; from medscore_assets.wait_times.registry import load_models; load_models();"
        "heavy = {'xgboost', 'statsmodels', 'httpx', 'dagster', 'sqlalchemy'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
