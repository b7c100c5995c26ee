"""One bad model, or one bad department, and all the others."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medscore_assets.wait_times.model import BatchModel, Fitted, History, Model
from medscore_assets.wait_times.models.moving_average import MovingAverage60
from medscore_assets.wait_times.prediction import Prediction, Predictions, Status
from medscore_assets.wait_times.running import ModelRun, fit_models, run_models
from medscore_assets.wait_times.snapshot import Snapshot, build_snapshot
from tests.wait_times.made import NOW, ZONE, visit, visits

NAMES = ("a", "b", "c", "d", "e")
ZONES = dict.fromkeys(NAMES, ZONE)
ROWS = [
    visit(-60 - number, -number, facility=name, id=f"{name}{number}") for name in NAMES for number in range(5)
]


class Constant(Model):
    """The parent of the bad ones: an hour for everybody."""

    name = "constant"
    version = "1.0.0"
    bands = ("all_posted",)

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.name

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        return Prediction(wait_seconds=3600.0)


class Batch(BatchModel):
    """Arrays of a constant; `spoil` says what is done to them."""

    name = "batch"
    version = "1.0.0"
    bands = ("all_posted", "ctas_2")

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        found = Predictions.empty(len(snapshot), self.bands)
        found.p50[:], found.p80[:], found.status[:] = 3600.0, 5400.0, Status.OK
        self.spoil(snapshot, found)
        return found

    def spoil(self, snapshot: Snapshot, found: Predictions) -> None:
        """Overridden."""


@pytest.fixture(scope="module")
def scenes() -> Snapshot:
    return build_snapshot(visits(*ROWS), [(name, NOW) for name in NAMES], ZONES)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a model that hangs waits for."""
    event = threading.Event()
    yield event
    event.set()


def run(scenes: Snapshot, *models: Model, **more: Any) -> list[ModelRun]:
    return run_models(models, scenes, {}, **more)


def statuses(found: ModelRun) -> list[str]:
    return [Status(status).code for status in found.predictions.status[:, 0]]


def test_a_good_model_is_saved_with_its_name_version_and_hash(scenes: Snapshot) -> None:
    (found,) = run(scenes, MovingAverage60())
    assert (found.name, found.version, found.fingerprint) == (
        "moving_average_60",
        "1.0.0",
        MovingAverage60().fingerprint(),
    )
    assert found.predictions.p50[:, 0].tolist() == [3600.0] * 5
    assert (found.error, found.version_changed) == (None, False)


class Raising(Constant):
    name = "raising"

    def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
        raise ValueError("the patient of 12:34 with CTAS 2")


class Exiting(Constant):
    name = "exiting"

    def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
        sys.exit("the patient of 12:34")


class Nameless(Constant):
    @property
    def version(self) -> str:
        raise RuntimeError("the server is away")


@pytest.mark.parametrize("bad", [Raising, Exiting, Nameless])
def test_a_model_that_fails_fails_alone_and_tells_nothing_of_patients(
    bad: type[Model], scenes: Snapshot
) -> None:
    failed, good = run(scenes, bad(), Constant())
    assert statuses(failed) == ["error"] * 5
    assert failed.error is not None
    assert "12:34" not in repr(failed)
    assert statuses(good) == ["ok"] * 5


def test_a_failure_says_where_it_came_up(scenes: Snapshot) -> None:
    (failed,) = run(scenes, Raising())
    assert failed.predictions.messages[0, 0].startswith("ValueError in predict, line ")
    assert failed.predictions.messages[0, 0].endswith("of test_running.py")


def test_a_model_that_hangs_is_left_behind_and_not_called_again(
    scenes: Snapshot, release: threading.Event
) -> None:
    calls = []

    class Hanging(Constant):
        name = "hanging"
        time_limit = timedelta(seconds=0.2)

        def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
            calls.append(as_of)
            release.wait(30)
            return super().predict(data, as_of)

    model = Hanging()
    hung, good = run(scenes, model, Constant())
    assert (statuses(hung), statuses(good)) == (["timeout"] * 5, ["ok"] * 5)
    assert "0.2 s" in hung.error
    (again,) = run(scenes, model)
    assert (statuses(again), len(calls)) == (["timeout"] * 5, 1)
    release.set()
    thread = next((t for t in threading.enumerate() if t.name == "model hanging"), None)
    if thread is not None:
        thread.join(10)
    # A busy machine may keep it from being in time at the first call.
    assert any(statuses(run(scenes, model)[0]) == ["ok"] * 5 for _ in range(20))


def test_the_budget_of_all_models_ends_the_tick(scenes: Snapshot, release: threading.Event) -> None:
    class Waiting(Constant):
        def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
            release.wait(30)
            return None

    found = run(scenes, *(Waiting(name) for name in ("one", "two", "three")), budget=timedelta(seconds=0.3))
    assert [statuses(one) for one in found] == [["timeout"] * 5] * 3
    assert "no time was left" in found[2].error


def test_remote_models_are_asked_at_the_same_time(scenes: Snapshot) -> None:
    all_there = threading.Barrier(3, timeout=20)

    class Remote(Constant):
        remote = True

        def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
            all_there.wait()
            found = super().predict_all(snapshot, fitted)
            found.stamp = (self.name, "2.0.0")
            self.version_changed = True
            return found

    found = run(scenes, *(Remote(name) for name in ("r1", "r2", "r3")), budget=timedelta(seconds=20))
    assert [(one.name, one.version, one.version_changed) for one in found] == [
        (name, "2.0.0", True) for name in ("r1", "r2", "r3")
    ]


def test_a_remote_answer_without_a_stamp_is_refused(scenes: Snapshot) -> None:
    class Unstamped(Constant):
        remote = True

    class Stamped(Unstamped):
        stamp = ("constant", "1.0.0")

        def predict_all(self, snapshot: Snapshot, fitted: Fitted) -> Predictions:
            found = super().predict_all(snapshot, fitted)
            found.stamp = self.stamp
            return found

    class Unversioned(Stamped):
        stamp = ("constant", "latest")

    class InAnothersName(Stamped):
        stamp = ("queue_fluid", "1.0.0")

    assert statuses(run(scenes, Stamped())[0]) == ["ok"] * 5
    for kind in (Unstamped, Unversioned, InAnothersName):
        assert statuses(run(scenes, kind())[0]) == ["error"] * 5


def test_a_version_that_changes_in_the_middle_is_an_error(scenes: Snapshot) -> None:
    class Changing(Constant):
        def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
            self.version = "1.0.1"
            return super().predict(data, as_of)

    (found,) = run(scenes, Changing())
    assert (found.version, statuses(found)) == ("1.0.0", ["error"] * 5)
    assert "changed" in found.error


def test_a_model_that_changes_its_frame_changes_nobody_elses(scenes: Snapshot) -> None:
    class Mutating(Constant):
        name = "mutating"

        def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
            data["wait_seconds"] = 1.0
            data["ctas"] = 1
            return super().predict(data, as_of)

    mutated, good = run(scenes, Mutating(), MovingAverage60())
    assert statuses(mutated) == ["ok"] * 5, mutated.error
    assert good.predictions.p50[:, 0].tolist() == [3600.0] * 5


def test_a_model_that_writes_into_the_snapshot_raises(scenes: Snapshot) -> None:
    class Writing(Batch):
        def spoil(self, snapshot: Snapshot, found: Predictions) -> None:
            snapshot.arrived[:] = 0

    (found,) = run(scenes, Writing())
    assert statuses(found) == ["error"] * 5


@pytest.mark.parametrize(
    ("p50", "p80", "says"),
    [
        (math.nan, math.nan, "wait: not a finite number"),
        (math.inf, math.nan, "wait: not a finite number"),
        (-1.0, math.nan, "wait: below 0 s"),
        (1e9, math.nan, "wait: above 86,400 s"),
        (3600.0 * 1000, math.nan, "wait: above 86,400 s"),
        (60.0, math.inf, "p80: not a finite number"),
        (60.0, -5.0, "p80: below 0 s"),
    ],
)
def test_one_number_that_is_no_wait_costs_one_department(
    p50: float, p80: float, says: str, scenes: Snapshot
) -> None:
    class Wrong(Batch):
        def spoil(self, snapshot: Snapshot, found: Predictions) -> None:
            found.p50[2, 0], found.p80[2, 0] = p50, p80

    (found,) = run(scenes, Wrong())
    assert statuses(found) == ["ok", "ok", "invalid", "ok", "ok"]
    assert found.predictions.messages == {(2, 0): says}
    assert np.isnan(found.predictions.p50[2, 0])
    assert json.dumps(found.predictions.p50[0].tolist(), allow_nan=False)
    assert found.error is None


def test_an_answer_of_the_simple_form_passes_the_same_check(scenes: Snapshot) -> None:
    class NotANumber(Constant):
        def predict(self, data: pd.DataFrame, as_of: datetime) -> Prediction | None:
            return Prediction(wait_seconds=data.iloc[:0]["wait_seconds"].mean())

    class Bare(Constant):
        def predict(self, data: pd.DataFrame, as_of: datetime) -> Any:
            return 3600.0

    invalid, error = run(scenes, NotANumber(), Bare())
    assert (statuses(invalid), statuses(error)) == (["invalid"] * 5, ["error"] * 5)
    assert "Return a Prediction" in error.predictions.messages[0, 0]


def test_crossed_quantiles_are_sorted(scenes: Snapshot) -> None:
    class Crossed(Batch):
        def spoil(self, snapshot: Snapshot, found: Predictions) -> None:
            found.p80[1, 0] = 1800.0

    (found,) = run(scenes, Crossed())
    assert (found.predictions.p50[1, 0], found.predictions.p80[1, 0]) == (1800.0, 3600.0)


@pytest.mark.parametrize("field", ["p50", "p80", "status"])
def test_an_answer_of_another_shape_is_an_error(field: str, scenes: Snapshot) -> None:
    class Misshapen(Batch):
        def spoil(self, snapshot: Snapshot, found: Predictions) -> None:
            setattr(found, field, getattr(found, field)[:, :1])

    (found,) = run(scenes, Misshapen())
    assert statuses(found) == ["error"] * 5
    assert "each scene and band" in found.error


def test_one_department_that_a_batch_cannot_do_leaves_the_others(scenes: Snapshot) -> None:
    class Brittle(Batch):
        def spoil(self, snapshot: Snapshot, found: Predictions) -> None:
            found.raw_p80 = np.full(found.p80.shape, 99.0) if len(snapshot) < 3 else None
            if "d" in snapshot.facilities:
                raise KeyError("d")

    (found,) = run(scenes, Brittle())
    assert statuses(found) == ["ok", "ok", "ok", "error", "ok"]
    assert found.predictions.p50[:, 1].tolist()[:3] == [3600.0] * 3
    assert set(found.predictions.messages) == {(3, 0), (3, 1)}
    assert found.predictions.raw_p80.shape == (5, 2)
    assert found.error is None


def test_without_a_department_no_model_is_asked(scenes: Snapshot) -> None:
    failing, good = run(scenes.only([]), Raising(), MovingAverage60())
    assert (failing.error, good.error) == (None, None)
    assert good.predictions.p50.shape == (0, 4)


def test_a_remote_batch_is_not_asked_again_in_parts(scenes: Snapshot) -> None:
    calls = []

    class Away(Batch):
        remote = True
        retries_parts = False

        def spoil(self, snapshot: Snapshot, found: Predictions) -> None:
            calls.append(len(snapshot))
            raise ConnectionError

    assert statuses(run(scenes, Away())[0]) == ["error"] * 5
    assert calls == [5]


def test_fits_fail_alone_and_give_what_can_be_stored(release: threading.Event) -> None:
    class Unstorable(Constant):
        name = "unstorable"

        def fit(self, history: History) -> Any:
            return {"a": {"level": math.nan}}

    class Broken(Constant):
        name = "broken"

        def fit(self, history: History) -> Any:
            raise ZeroDivisionError

    class Slow(Constant):
        name = "slow"
        fit_limit = timedelta(seconds=0.1)

        def fit(self, history: History) -> Any:
            release.wait(30)

    class Learning(Constant):
        name = "learning"

        def fit(self, history: History) -> Any:
            return {"a": {"level": (1, 2.5)}}

    history = History(visits(*ROWS), NOW, NAMES, ZONES, days=1)
    models = [Unstorable(), Broken(), Slow(), Constant(), Learning()]
    found = {one.name: (one.parameters, one.error) for one in fit_models(models, history)}
    assert found["learning"] == ({"a": {"level": [1, 2.5]}}, None)
    assert found["constant"] == (None, None)
    assert all(found[name][0] is None and found[name][1] for name in ("unstorable", "broken", "slow"))
