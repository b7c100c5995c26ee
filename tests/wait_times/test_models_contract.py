"""What every registered model promises, whoever wrote it."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import linecache
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medscore_assets.wait_times.bands import ALL_BANDS
from medscore_assets.wait_times.model import Fitted, Model
from medscore_assets.wait_times.models import once
from medscore_assets.wait_times.models.document import DocumentMovingAverage
from medscore_assets.wait_times.models.moving_average import MovingAverage60, MovingAverage120
from medscore_assets.wait_times.prediction import Prediction, Predictions, Status
from medscore_assets.wait_times.registry import load_models
from medscore_assets.wait_times.running import FitRun, fit_models
from medscore_assets.wait_times.snapshot import Snapshot, build_snapshot
from medscore_assets.wait_times.validation import validated
from resources.errors import PermanentError
from tests.wait_times.conftest import Simulated
from tests.wait_times.made import snapshot, visit


class PlainAverage(Model):
    """The whole of what somebody writes for a model: name, version, parameters, `predict`."""

    name = "plain_average"
    version = "1.0.0"
    lookback = timedelta(minutes=60)
    min_patients = 3

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        seen = data[data["seen"] > as_of - self.lookback]
        if len(seen) < self.min_patients:
            return None
        return Prediction(wait_seconds=seen["wait_seconds"].mean())


MODELS = (*load_models().models, PlainAverage())
every_model = pytest.mark.parametrize("model", MODELS, ids=[model.name for model in MODELS])


@pytest.fixture(scope="module")
def fits(simulated: Simulated) -> dict[str, FitRun]:
    return {run.name: run for run in fit_models(MODELS, simulated.history)}


def asked(model: Model, scenes: Snapshot, fitted: Fitted | None = None) -> Predictions:
    """A checked answer; every number that it claims is a wait."""
    found = validated(model.predict_all(scenes, fitted or {}), len(scenes), model.bands, model.name)
    assert not (found.status >= Status.ERROR).any(), found.messages
    return found


def known(model: Model, fits: dict[str, FitRun]) -> Fitted:
    run = fits[model.name]
    assert run.error is None
    return run.parameters or {}


def assert_same(first: Predictions, second: Predictions) -> None:
    for name in ("p50", "p80", "status"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.messages == second.messages


@every_model
def test_it_has_a_name_a_version_and_a_hash(model: Model) -> None:
    assert model.identity() == (model.name, model.version)
    assert model.fingerprint() == model.fingerprint()
    assert json.loads(json.dumps(model.parameters(), allow_nan=False)) == model.parameters()


@every_model
def test_an_empty_department_has_no_number_while_nothing_was_learned(model: Model) -> None:
    assert set(asked(model, snapshot()).status.flat) == {Status.NO_DATA}


@every_model
@pytest.mark.parametrize(
    "rows",
    [
        [visit(-10 * number, ctas=number % 5 + 1) for number in range(1, 30)],
        [visit(-30, -10)],
        [visit(-10 * number, -9 * number, ctas=None) for number in range(1, 20)],
        [visit(-10 * number, left_at=-number) for number in range(1, 20)],
        [visit(-10 * number, -10 * number) for number in range(1, 20)],
    ],
    ids=["all waiting", "one row", "triage unknown", "all left", "no wait at all"],
)
@pytest.mark.parametrize("learned", [True, False])
def test_odd_departments_do_no_harm(
    model: Model, rows: list[dict], learned: bool, fits: dict[str, FitRun], simulated: Simulated
) -> None:
    fitted = known(model, fits) if learned else {}
    # What was learned about another department, so that it is used.
    name = simulated.facilities[1]
    odd = dataclasses.replace(snapshot(*rows), facilities=(name,))
    asked(model, odd, fitted)


@every_model
def test_every_department_of_a_usual_day_has_a_headline(
    model: Model, fits: dict[str, FitRun], simulated: Simulated
) -> None:
    found = asked(model, simulated.snapshot(ticks=8), known(model, fits))
    headline = found.p50[:, model.bands.index("all_posted")]
    if not (model.baseline or isinstance(model, PlainAverage)):
        assert not np.isnan(headline).any()
    assert 10 * 60 < np.nanmedian(headline) < 6 * 3600


@every_model
def test_the_night_when_clocks_change_is_a_night(
    model: Model, fits: dict[str, FitRun], simulated: Simulated
) -> None:
    before, gap = (datetime(2026, 3, 8, 6, 45, tzinfo=UTC) + timedelta(minutes=15 * step) for step in (0, 1))
    scenes = build_snapshot(
        simulated.visits, [(simulated.facilities[0], t) for t in (before, gap)], simulated.zones
    )
    found = asked(model, scenes, known(model, fits)).p50[:, model.bands.index("all_posted")]
    assert not np.isnan(found).any()
    assert abs(found[1] - found[0]) < 3600


@every_model
def test_it_neither_changes_its_input_nor_what_it_learned(
    model: Model, fits: dict[str, FitRun], simulated: Simulated
) -> None:
    scenes, fitted = simulated.snapshot(), known(model, fits)
    before, learned = scenes.only(range(len(scenes))), copy.deepcopy(fitted)
    asked(model, scenes, fitted)
    for name in ("arrived", "seen", "left", "departed", "ctas", "offsets"):
        np.testing.assert_array_equal(getattr(scenes, name), getattr(before, name))
    assert fitted == learned


@every_model
def test_the_same_input_gives_the_same_answer(
    model: Model, fits: dict[str, FitRun], simulated: Simulated
) -> None:
    fitted = known(model, fits)
    first, again = (asked(model, simulated.snapshot(ticks=2), fitted) for _ in range(2))
    assert_same(first, again)
    assert (fits[model.name].parameters or {}) == (model.fit(simulated.history) or {})


@every_model
def test_what_it_learned_survives_json(model: Model, fits: dict[str, FitRun], simulated: Simulated) -> None:
    fitted = known(model, fits)
    stored = json.loads(json.dumps(fitted, allow_nan=False))
    assert stored == fitted
    assert_same(*(asked(model, simulated.snapshot(), learned) for learned in (fitted, stored)))


@every_model
def test_a_department_alone_is_told_what_it_is_told_among_others(
    model: Model, fits: dict[str, FitRun], simulated: Simulated
) -> None:
    fitted, batch = known(model, fits), simulated.snapshot(ticks=2)
    together = asked(model, batch, fitted)
    for scene in (0, 4):
        alone = asked(model, batch.only([scene]), fitted)
        np.testing.assert_array_equal(together.p50[scene], alone.p50[0])
        np.testing.assert_array_equal(together.p80[scene], alone.p80[0])
        np.testing.assert_array_equal(together.status[scene], alone.status[0])


@every_model
def test_it_is_well_within_its_time_limit(
    model: Model, fits: dict[str, FitRun], simulated: Simulated
) -> None:
    scenes, fitted = simulated.snapshot(), known(model, fits)
    began = time.process_time()
    asked(model, scenes, fitted)
    assert time.process_time() - began < model.time_limit.total_seconds() / 5
    assert fits[model.name].seconds < model.fit_limit.total_seconds()


def test_a_batch_gives_what_the_simple_form_of_the_same_model_gives(simulated: Simulated) -> None:
    scenes = simulated.snapshot(ticks=8)
    plain, batch = asked(PlainAverage(), scenes), asked(MovingAverage60(), scenes)
    first_choice = batch.status == Status.OK
    assert first_choice.sum() > 20
    np.testing.assert_array_equal(plain.status == Status.OK, first_choice)
    np.testing.assert_allclose(plain.p50[first_choice], batch.p50[first_choice])


def test_an_average_with_too_few_patients_says_what_stands_in_for_it() -> None:
    an_hour_ago = [visit(-200 - number, -100 - number) for number in range(3)]
    found = asked(MovingAverage60(), snapshot(visit(-30, -10), *an_hour_ago))
    assert (Status(found.status[0, 0]), found.p50[0, 0]) == (Status.FALLBACK, (20 + 3 * 100) / 4 * 60)
    assert "120 min" in found.messages[0, 0]
    assert set(asked(MovingAverage60(), snapshot(visit(-30, -10))).status.flat) == {Status.NO_DATA}


def test_without_anybody_the_usual_wait_of_the_hour_stands_in(simulated: Simulated) -> None:
    model = MovingAverage120()
    nobody = dataclasses.replace(snapshot(), facilities=(simulated.facilities[0],))
    found = asked(model, nobody, model.fit(simulated.history))
    assert set(found.status.flat) == {Status.FALLBACK}
    assert found.messages[0, 0].endswith("the usual wait of the hour")


def test_the_windows_of_the_averages_differ() -> None:
    rows = [visit(-30 - number, -number) for number in range(3)] + [
        visit(-300 - number, -90 - number) for number in range(3)
    ]
    hour, two_hours = (
        asked(kind(), snapshot(*rows)).p50[0, 0] / 60 for kind in (MovingAverage60, MovingAverage120)
    )
    assert (hour, two_hours) == (30, 120)


def test_the_average_of_the_document_looks_at_those_who_leave() -> None:
    rows = [visit(-400 - number, -200, disposition_at=-10) for number in range(3)] + [
        visit(-50 - number, -20) for number in range(3)
    ]
    document, ours = (
        asked(kind(), snapshot(*rows)).p50[0, 0] / 60 for kind in (DocumentMovingAverage, MovingAverage60)
    )
    assert (document, ours) == (201, 31)


def test_the_code_of_the_document_gives_every_variant_the_same_mean(simulated: Simulated) -> None:
    """Its variants inherit the class without a window: corrected just so far that it runs."""

    class Document:
        @classmethod
        def predict(cls, data: pd.DataFrame) -> float:
            return data["wait_seconds"].mean()

    class Document120(Document):
        lookback_seconds = 60 * 60 * 2

    class Document60(Document):
        lookback_seconds = 60 * 60

    scenes = simulated.snapshot()
    data = scenes.frame(0, "all_posted")
    assert Document120.predict(data) == Document60.predict(data)
    ours = [asked(kind(), scenes).p50[0, 0] for kind in (MovingAverage60, MovingAverage120)]
    assert ours[0] != ours[1]


def test_a_model_of_another_package_gets_all_bands_unless_it_says_otherwise() -> None:
    class Headline(PlainAverage):
        bands = ("all_posted",)

    rows = [visit(-50 - number, -number) for number in range(5)]
    assert asked(Headline(), snapshot(*rows)).p50.shape == (1, 1)
    assert PlainAverage().bands == ALL_BANDS


SOURCE = """
from datetime import timedelta
from medscore_assets.wait_times.model import Model
from medscore_assets.wait_times.prediction import Prediction

FACTOR = 2
OPTIONS = {"offset": 5}
SEEN = {}

def helper(data):
    SEEN[len(SEEN)] = object()
    return data["wait_seconds"].mean() * FACTOR + OPTIONS["offset"]

class Written(Model):
    name = "written"
    version = "1.0.0"
    lookback = timedelta(minutes=60)

    def predict(self, data, as_of):
        return Prediction(wait_seconds=helper(data))
"""


def hash_of(source: str, file: Path) -> str:
    """The hash of the model that a module of this text defines."""
    file.write_text(source)
    linecache.checkcache(str(file))
    spec = importlib.util.spec_from_file_location("written_model", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["written_model"] = module
    try:
        spec.loader.exec_module(module)
        return module.Written().fingerprint()
    finally:
        del sys.modules["written_model"]


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("minutes=60", "minutes=61", True),
        ("* FACTOR", "+ FACTOR", True),
        ("FACTOR = 2", "FACTOR = 3", True),
        ('"offset": 5', '"offset": 6', True),
        ("SEEN = {}", "SEEN = {}; SEEN[1] = object()", False),
        ("helper(data))", "helper(data) + 1)", True),
        ("    lookback", "    # A comment.\n    lookback", False),
        ('"1.0.0"', '"1.0.1"', False),
        ("    lookback", "    time_limit = timedelta(seconds=9)\n    lookback", False),
        ("    def predict(self", '    "What it is."\n\n    def predict(self', False),
        ("def helper", f"from {once.__name__} import shared\n@shared\ndef helper", False),
        ("def helper", "import functools\n@functools.cache\ndef helper", True),
    ],
)
def test_a_changed_parameter_or_line_changes_the_hash_and_a_comment_does_not(
    old: str, new: str, differs: bool, tmp_path: Path
) -> None:
    assert SOURCE.count(old) == 1
    first, second = (
        hash_of(text, tmp_path / f"{number}.py")
        for number, text in enumerate((SOURCE, SOURCE.replace(old, new)))
    )
    assert (first != second) == differs


def test_a_parameter_of_an_instance_counts() -> None:
    other = PlainAverage()
    other.lookback = timedelta(minutes=61)
    assert other.fingerprint() != PlainAverage().fingerprint()


def test_code_that_cannot_be_read_cannot_be_told_apart() -> None:
    unwritten = type("Unwritten", (PlainAverage,), {"__module__": __name__})
    with pytest.raises(PermanentError, match="source"):
        unwritten().fingerprint()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 86_400.5, "12", None, True])
def test_a_prediction_is_a_wait_in_seconds(value: object) -> None:
    with pytest.raises(ValueError, match="wait_seconds"):
        Prediction(wait_seconds=value)


def test_a_prediction_has_no_other_field_and_does_not_change() -> None:
    assert Prediction(wait_seconds=np.float32(5)).wait_seconds == 5
    with pytest.raises(ValueError, match="wait_time_seconds"):
        Prediction(wait_time_seconds=5.0)
    with pytest.raises(ValueError, match="frozen"):
        Prediction(wait_seconds=5.0).wait_seconds = 6.0


def test_what_is_shared_is_computed_once_for_each_snapshot_and_argument_and_cannot_be_changed() -> None:
    computed = []

    @once.shared
    def waits(of: Snapshot, factor: int = 1) -> np.ndarray:
        computed.append((len(of.rows), factor))
        return of.waits() * factor

    small, large = snapshot(visit(-50, -10)), snapshot(visit(-50, -10), visit(-40, -5))
    first = waits(small)
    assert waits(small) is first
    assert [len(waits(small, 2)), len(waits(large))] == [1, 2]
    assert computed == [(1, 1), (1, 2), (2, 1)]
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0.0
