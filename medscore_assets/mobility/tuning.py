"""The search for better settings of an EBM with Ray Tune, on this machine or on a Ray cluster.

Belongs here: the space that is searched, one trial, stopping bad ones early, taking up a search again.
Does not belong here: fitting (`training.py`), the file that training reads (`training_config.py`), the
display.

Rounds are the budget: a trial is measured after `first_rounds`, and again each time it has `factor` times
as many; asynchronous successive halving (ASHA, Li et al. 2020) lets only the better ones go on, from the
rounds that they have. A trial's error is the least mean absolute error on the validation part so far, which
is what early stopping would keep. So no search touches rows that calibrate or judge.

Ray is an optional extra and imported where it is used. Ray keeps the state of a search as pickle files in
the search's folder: do not take up a folder that others can write to.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medscore_assets.mobility.cohorts import GLOBAL_MODEL
from medscore_assets.mobility.model import MobilityModel, model_name
from medscore_assets.mobility.training import (
    Settings,
    continue_fit,
    fit_cohort,
    fit_global,
    validation_error,
)
from medscore_assets.mobility.training_set import TrainingSet
from resources.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from ray import tune

ERROR = "validation_mae"
ROUNDS = "rounds"
BEST_ROUNDS = "best_rounds"
SECONDS = "fit_seconds"

MAX_BINS = (64, 128, 256, 512, 1024)
LEARNING_RATE = (0.01, 0.3)
"""Between these, evenly by the logarithm."""
MAX_LEAVES = (2, 3, 4, 5)

STORE_BYTES = 100 * 2**20
"""Ray's object store beside the training rows; it refuses fewer than 75 MiB."""

STARTS = 3
"""How often it is tried to start Ray."""

_PLAN = "search.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """One search. The first trial has the settings of the code, so that the best is never worse."""

    cohort: str
    """`MS`, `PD`, `RA`, `other`, or `global`."""
    horizon_days: int
    trials: int = 24
    first_rounds: int = 50
    most_rounds: int = 800
    factor: int = 4
    at_once: int = 2
    """Trials that run side by side, each on one core. With more than one, which trials are stopped early
    depends on the order in which they report."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.trials, self.first_rounds, self.at_once) < 1 or self.factor < 2:
            raise ValueError("a search needs a trial, a round, a core, and a factor of at least 2")
        if self.most_rounds < self.first_rounds:
            raise ValueError("the most rounds must not be fewer than the first")

    @property
    def model(self) -> str:
        """The registry name of the model whose settings are searched."""
        return model_name(self.cohort, self.horizon_days)

    @property
    def rungs(self) -> tuple[int, ...]:
        """After how many rounds a trial is measured."""
        found = [self.first_rounds]
        while found[-1] * self.factor < self.most_rounds:
            found.append(found[-1] * self.factor)
        return (*found, self.most_rounds) if found[-1] < self.most_rounds else tuple(found)


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting as far as it was measured. `error` in steps; None where the trial failed or never ran."""

    trial_id: str
    max_bins: int
    learning_rate: float
    max_leaves: int
    rounds: int
    best_rounds: int
    error: float | None
    seconds: float
    ended: bool
    """Whether it had all its rounds, was stopped for good, or failed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A search: its trials, the best first. `complete` is False where it was stopped before its end."""

    plan: Plan
    trials: tuple[Trial, ...]
    complete: bool

    @property
    def best(self) -> Trial:
        """The trial with the lowest error, the first of several."""
        return self.trials[0]

    @property
    def settings(self) -> Settings:
        """What to train with: early stopping finds the rounds on the same validation part."""
        best = self.best
        return Settings(max_bins=best.max_bins, learning_rate=best.learning_rate, max_leaves=best.max_leaves)


Watch = Callable[[str, int, float, bool], None]
"""Called with a trial's id, its rounds, its error in steps, and whether it ended there."""

_watch: Watch | None = None
# Ray pickles the callbacks of a search into its folder; a display must not be part of that.


@contextmanager
def ray_session(address: str | None, cores: int, data_bytes: int = 0) -> Iterator[None]:
    """Ray, either the cluster at `address` (`host:6379`) or one of its own on this machine.

    No usage statistics are sent and no dashboard is served. Within another session nothing is started.
    Raises `PermanentError` if the extra is not installed or the cluster cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # Tune's own tables; who watches shows the search.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # Trials see the folder that the command was given in, as paths in settings are relative to it.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    try:
        import ray
    except ImportError as error:
        raise PermanentError(
            "Ray is not installed", where="mobility tuning", mend="In the project's folder: make .venv/tools"
        ) from error
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        _join(address, quiet)
        try:
            yield
        finally:
            ray.shutdown()
        return
    # A short path: Ray puts sockets below it, whose paths may have 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    try:
        _start(cores, STORE_BYTES + 2 * data_bytes, folder, quiet)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(cores: int, store_bytes: int, folder: str, quiet: dict[str, Any]) -> None:
    """Start Ray on this machine; again where it took too long, as on one that is busy."""
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                num_cpus=cores,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=store_bytes,
                _temp_dir=folder,
                **quiet,
            )
        except Exception as error:
            # Ray raises a bare Exception when its processes are not up within 30 s.
            ray.shutdown()
            if attempt == STARTS:
                raise TransientError(
                    "Ray did not start", where="this machine", mend="Try again when it is less busy."
                ) from error
        else:
            return


def _join(address: str, quiet: dict[str, Any]) -> None:
    import ray

    mend = "Name the head node's address as host:6379 in MEDSCORE_RAY_ADDRESS, from a node of the cluster."
    if address.startswith("ray://"):
        raise PermanentError("a search does not run through a Ray client", where=address, mend=mend)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PermanentError(
            "the Ray cluster cannot be reached or has another version", where=address, mend=mend
        ) from error


def search(
    plan: Plan,
    data: TrainingSet,
    folder: Path,
    *,
    address: str | None = None,
    watch: Watch | None = None,
    fresh: bool = False,
) -> Found:
    """Try settings on the train part, measured on the validation part.

    The search lives in `folder`/<model>, on a cluster a folder that all nodes share. The same search
    of the same rows is taken up where it stood: a finished one is read, a stopped one goes on, with trials
    from their last rung; against whom they compete starts anew, so that some go further than they had to.
    Another search that is there, and any with `fresh`, is replaced. Ctrl-C stops a search so that it can
    be taken up. Raises `PermanentError` if no trial could be measured.
    """
    global _watch
    home = folder.resolve() / plan.model
    size = sum(array.nbytes for array in (data.matrix, data.steps, data.patients, data.parts))
    with ray_session(address, plan.at_once, size):
        tuner = _tuner(plan, data, home, fresh)
        _watch = watch
        try:
            results = tuner.fit()
        finally:
            _watch = None
    trials = sorted((_trial(results[n]) for n in range(len(results))), key=_order)
    if not trials or trials[0].error is None:
        raise PermanentError(
            f"no trial of the search for {plan.model} could be measured",
            where=str(home),
            mend="Train with the code's settings to see what fails: medscore mobility train",
        )
    complete = len(trials) == plan.trials and all(trial.ended for trial in trials)
    return Found(plan, tuple(trials), complete)


def _tuner(plan: Plan, data: TrainingSet, home: Path, fresh: bool) -> tune.Tuner:
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search import BasicVariantGenerator

    trainable = tune.with_resources(tune.with_parameters(_run_trial, data=data, plan=plan), {"cpu": 1})
    said = json.dumps({"plan": asdict(plan), "rows": data.fingerprint}, indent=1)
    stated = home / _PLAN
    same = stated.exists() and stated.read_text(encoding="utf-8") == said
    if same and not fresh and tune.Tuner.can_restore(str(home)):
        return tune.Tuner.restore(str(home), trainable, resume_unfinished=True, resume_errored=True)
    if home.exists():
        shutil.rmtree(home)
    home.mkdir(parents=True)
    stated.write_text(said, encoding="utf-8")
    default = Settings()
    first = {name: getattr(default, name) for name in ("max_bins", "learning_rate", "max_leaves")}
    return tune.Tuner(
        trainable,
        param_space={
            "max_bins": tune.choice(MAX_BINS),
            "learning_rate": tune.loguniform(*LEARNING_RATE),
            "max_leaves": tune.choice(MAX_LEAVES),
        },
        tune_config=tune.TuneConfig(
            metric=ERROR,
            reuse_actors=True,
            mode="min",
            num_samples=plan.trials,
            search_alg=BasicVariantGenerator(
                points_to_evaluate=[first], max_concurrent=plan.at_once, random_state=plan.seed
            ),
            scheduler=AsyncHyperBandScheduler(
                time_attr=ROUNDS,
                max_t=plan.most_rounds,
                grace_period=plan.first_rounds,
                reduction_factor=plan.factor,
            ),
        ),
        run_config=tune.RunConfig(
            name=home.name,
            storage_path=str(home.parent),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            callbacks=[_teller()],
            verbose=0,
        ),
    )


def _run_trial(config: dict[str, Any], data: TrainingSet, plan: Plan) -> None:
    """One trial in a process of its own, from its last checkpoint if it has one."""
    from ray import tune

    settings = Settings(**config, early_stopping_rounds=0)
    model, best, best_rounds, seconds = None, float("inf"), 0, 0.0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            model = MobilityModel.load(Path(folder), data.encoding.contract)
        stood = model.manifest.metrics
        best, best_rounds, seconds = stood[ERROR], int(stood[BEST_ROUNDS]), stood[SECONDS]
    for rung in plan.rungs:
        if model is not None and rung <= model.manifest.rounds:
            continue
        begun = time.perf_counter()
        model = _boosted_to(rung, model, data, plan, settings)
        error = validation_error(model, data)
        seconds += time.perf_counter() - begun
        if error < best:
            best, best_rounds = error, rung
        report = {ERROR: best, BEST_ROUNDS: float(best_rounds), SECONDS: seconds}
        model = model.with_manifest(metrics=report)
        with tempfile.TemporaryDirectory() as aside:
            model.save(Path(aside))
            tune.report({**report, ROUNDS: rung}, checkpoint=tune.Checkpoint.from_directory(aside))


def _boosted_to(
    rounds: int, model: MobilityModel | None, data: TrainingSet, plan: Plan, settings: Settings
) -> MobilityModel:
    if model is not None:
        return continue_fit(model, data, rounds - model.manifest.rounds, seed=plan.seed)
    first = Settings(**{**asdict(settings), "max_rounds": rounds})
    if plan.cohort == GLOBAL_MODEL:
        return fit_global(data, first, seed=plan.seed)
    return fit_cohort(data, plan.cohort, first, seed=plan.seed)


def _teller() -> Any:
    """The callback that passes results on to who watches the search of this process."""
    from ray.tune import Callback

    class Teller(Callback):
        # Pickled by value, so it must name nothing but functions of this module, which go by name.
        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            _tell(trial.trial_id, result, ended=False)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            _tell(trial.trial_id, trial.last_result or {}, ended=True)

    return Teller()


def _tell(trial_id: str, result: dict[str, Any], *, ended: bool) -> None:
    if _watch is not None and ERROR in result:
        _watch(trial_id, int(result[ROUNDS]), float(result[ERROR]), ended)


def _trial(result: Any) -> Trial:
    config, metrics = result.config or {}, result.metrics or {}
    error = metrics.get(ERROR)
    return Trial(
        trial_id=str(metrics.get("trial_id", "")),
        max_bins=int(config["max_bins"]),
        learning_rate=float(config["learning_rate"]),
        max_leaves=int(config["max_leaves"]),
        rounds=int(metrics.get(ROUNDS, 0)),
        best_rounds=int(metrics.get(BEST_ROUNDS, 0)),
        error=None if error is None else float(error),
        seconds=float(metrics.get(SECONDS, 0.0)),
        ended=bool(metrics.get("done")) or result.error is not None,
    )


def _order(trial: Trial) -> tuple[float, str]:
    return (float("inf") if trial.error is None else trial.error, trial.trial_id)
