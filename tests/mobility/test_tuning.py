"""The search for settings, really run with Ray on this machine, and the file that training reads."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

from medscore_assets.contracts.mobility import MOBILITY
from medscore_assets.mobility import training_config
from medscore_assets.mobility.training import Settings
from medscore_assets.mobility.training_set import Split, TrainingSet
from medscore_assets.mobility.tuning import Plan, ray_session, search
from resources.errors import PermanentError
from tests.mobility.simulated import BEGUN, feature_table, last_day, simulated_steps

# With this seed the third and the fourth trial are worse than those before them.
PLAN = Plan("global", 1, trials=4, first_rounds=4, most_rounds=16, factor=2, at_once=1, seed=6)

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra medscore[ray] is not installed"
)


@pytest.mark.slow
@needs_ray
def test_a_search_that_was_stopped_goes_on_where_it_stood_and_its_best_trains(tmp_path: Path) -> None:
    days = 40
    table = feature_table(simulated_steps(40, days, seed=1), 1, seed=1)
    data = TrainingSet.of(table, MOBILITY, 1, Split.of(BEGUN, last_day(days)))
    seen: list[tuple[str, int, bool]] = []

    def watch(trial: str, rounds: int, error: float, ended: bool) -> None:
        seen.append((trial, rounds, ended))
        if len(seen) == 2:
            # As Ctrl-C does.
            signal.raise_signal(signal.SIGINT)

    with ray_session(None, PLAN.at_once):
        stopped = search(PLAN, data, tmp_path, watch=watch)
        before = len(seen)
        found = search(PLAN, data, tmp_path, watch=watch)

    assert not stopped.complete
    assert found.complete
    # The trial that was under way goes on from a checkpoint: it is not measured after 4 rounds again.
    begun = seen[0][0]
    assert seen[0] == (begun, 4, False)
    assert (begun, 4, False) not in seen[before:]
    assert (begun, 16, True) in seen[before:]
    assert len(found.trials) == PLAN.trials
    errors = [trial.error for trial in found.trials if trial.error is not None]
    assert len(errors) == PLAN.trials
    assert errors == sorted(errors)
    # A trial that is worse at the first rung is not given the rounds of the second.
    cut = [trial.error for trial in found.trials if trial.rounds == 4]
    assert cut
    assert errors[0] not in cut
    # The code's own settings are among those tried.
    tried = {(t.max_bins, t.learning_rate, t.max_leaves) for t in found.trials}
    default = Settings()
    assert (default.max_bins, default.learning_rate, default.max_leaves) in tried

    file = tmp_path / "training.toml"
    training_config.save(file, PLAN.model, found.settings)
    assert training_config.settings_of(training_config.load(file), PLAN.model) == found.settings


def test_rounds_grow_by_the_factor_up_to_the_most() -> None:
    assert Plan("MS", 1, first_rounds=50, most_rounds=800, factor=4).rungs == (50, 200, 800)
    assert Plan("MS", 1, first_rounds=50, most_rounds=700, factor=4).rungs == (50, 200, 700)
    assert Plan("MS", 1, first_rounds=50, most_rounds=50, factor=4).rungs == (50,)


def test_a_saved_table_leaves_the_others_and_counts_before_the_default(tmp_path: Path) -> None:
    file = tmp_path / "training.toml"
    file.write_text('[default]\nmax_rounds = 300\n\n["mobility-pd-7d"]\nmax_leaves = 2\n')
    training_config.save(file, "mobility-ms-1d", Settings(max_bins=64, learning_rate=0.05))
    tables = training_config.load(file)
    assert training_config.settings_of(tables, "mobility-pd-7d") == Settings(max_rounds=300, max_leaves=2)
    assert training_config.settings_of(tables, "mobility-ra-1d") == Settings(max_rounds=300)
    assert training_config.settings_of(tables, "mobility-ms-1d") == Settings(max_bins=64, learning_rate=0.05)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('["mobility-ms-2d"]\nmax_bins = 64', "mobility-ms-2d"),
        ("[default]\nmax_bin = 64", "default.max_bin"),
        ("[default]\nlearning_rate = 0.0", "default.learning_rate"),
        ("[default", "TOML"),
    ],
)
def test_a_wrong_entry_of_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "training.toml"
    file.write_text(text)
    with pytest.raises(PermanentError, match=named.replace(".", r"\.")):
        training_config.load(file)
