"""Challengers with a known fault, through the real assets: judged, reported, refused or promoted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa

from medscore_assets import tables
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.demo.discharges import DemoData
from medscore_assets.model_decisions import REFUSED, journal
from medscore_assets.monitoring.metrics import evaluate, logistic_fit
from medscore_assets.monitoring.promotion import DEFAULT_FILE as GATE_FILE
from medscore_assets.promotion import promote
from medscore_assets.readmission.judging import EVALUATION
from medscore_assets.readmission.model_assets import readmission_champion, readmission_evaluation
from medscore_assets.readmission.policy import DEFAULT_FILE as POLICY_FILE
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel, Recalibration
from medscore_assets.readmission.training import data_fingerprint, encoded_parts, in_training_order, train
from resources.registry import CHALLENGER, CHAMPION, REFUSED_TAG, ModelRegistry
from resources.warehouse import Warehouse
from tests.conftest import copied_database
from tests.models import cohort_of
from tests.readmission.versions import register, variant, with_files

pytestmark = pytest.mark.slow

BY_HAND: dict[str, Any] = {"reason": "To begin with a weak champion", "by": "A. Person"}
RESAMPLES = 100


@dataclass(frozen=True)
class Entrants:
    """A warehouse with a training set and a registry with faulty versions, as databases to be copied."""

    warehouse: str
    registry: str
    folder: Path
    number: dict[str, int]
    """What is wrong with a version -> its number."""


@pytest.fixture(scope="session")
def entrants(
    postgres: str,
    migrated_template: str,
    empty_store: str,
    model: ReadmissionModel,
    demo_year: DemoData,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Entrants]:
    folder = tmp_path_factory.mktemp("entrants")
    (folder / "gate.toml").write_text(
        GATE_FILE.read_text().replace("resamples = 1000", f"resamples = {RESAMPLES}")
    )
    with (
        copied_database(postgres, migrated_template) as here,
        copied_database(postgres, empty_store) as there,
    ):
        warehouse = Warehouse(here)
        with warehouse.transaction() as connection:
            warehouse.append(connection, tables.readmission_training_set, cohort_of(demo_year))
        training_set = warehouse.read(sa.select(tables.readmission_training_set))
        warehouse.close()
        registry = ModelRegistry(there, artifacts=(folder / "artifacts").as_uri(), cache=folder / "cache")
        of_these_data = {"data_fingerprint": data_fingerprint(training_set)}
        model = replace(model, manifest=model.manifest.model_copy(update=of_these_data))
        number = {
            what: register(registry, faulty, folder / what)
            for what, faulty in {
                "weak": recalibrated(variant(model, trees=6), training_set),
                "sound": model,
                "miscalibrated": variant(model, slope=1.6),
                "in-sample": overfitted(model, training_set),
                "subgroup": blind_to_lungs(model, training_set),
            }.items()
        }
        names = (str(sa.make_url(url).database) for url in (here, there))
        yield Entrants(*names, folder, number)


def recalibrated(model: ReadmissionModel, training_set: pa.Table) -> ReadmissionModel:
    """The model with its recalibration fitted on validation, as training does."""
    matrix, labels = encoded_parts(in_training_order(training_set), READMISSION)["validation"]
    fitted = logistic_fit(model.booster.inplace_predict(matrix, predict_type="margin"), labels)
    assert fitted is not None
    recalibration = Recalibration(intercept=fitted[0], slope=fitted[1])
    return with_files(model.manifest.model_copy(update={"recalibration": recalibration}), model.serialized)


def overfitted(model: ReadmissionModel, training_set: pa.Table) -> ReadmissionModel:
    """Deep trees that know the train part by heart, recalibrated so that only its rank order is poor."""
    import xgboost as xgb

    parts = encoded_parts(in_training_order(training_set), READMISSION)
    names = list(READMISSION.feature_names)
    data = xgb.DMatrix(*parts["train"], feature_names=names, nthread=1)
    parameters = {"objective": "binary:logistic", "max_depth": 10, "eta": 0.5, "min_child_weight": 0.1}
    booster = xgb.train({**parameters, "nthread": 1}, data, num_boost_round=40)
    manifest = model.manifest.model_copy(update={"best_iteration": 39})
    by_heart = recalibrated(with_files(manifest, bytes(booster.save_raw("ubj"))), training_set)
    matrix, labels = parts["train"]
    auroc = [evaluate(labels, m.score(matrix)).auroc or 0.0 for m in (model, by_heart)]
    assert auroc[1] > auroc[0] + 0.1, "it must be better in-sample"
    return by_heart


def blind_to_lungs(model: ReadmissionModel, training_set: pa.Table) -> ReadmissionModel:
    """Trained where many of the readmissions after respiratory disease went unseen."""
    unseen = pa.array(np.random.default_rng(5).random(len(training_set)) < 0.4)
    respiratory = pc.equal(training_set["primary_diagnosis_group"], "respiratory")
    fitted = pc.not_equal(training_set["part"], "test")
    label = "readmitted_within_30_days"
    seen = pc.and_not(training_set[label], pc.and_(pc.and_(respiratory, fitted), unseen))
    position = training_set.column_names.index(label)
    blind = train(
        training_set.set_column(position, label, seen), READMISSION, policy_hash=model.manifest.policy_hash
    ).model
    same = {"data_fingerprint": model.manifest.data_fingerprint}
    return replace(blind, manifest=blind.manifest.model_copy(update=same))


class Contest:
    """A champion, or none, and challengers to it, judged by the real assets."""

    def __init__(
        self, warehouse: Warehouse, registry: ModelRegistry, entrants: Entrants, folder: Path
    ) -> None:
        self.warehouse, self.registry, self.number = warehouse, registry, entrants.number
        self.instance = dg.DagsterInstance.ephemeral()
        self.resources = {
            "warehouse": warehouse,
            "registry": registry,
            "policy_file": POLICY_FILE,
            "gate_file": entrants.folder / "gate.toml",
            "reports_folder": folder / "reports",
            "mlflow_address": "http://localhost:5000",
        }

    def champion(self, what: str) -> None:
        promote(self.warehouse, self.registry, None, MODEL, self.number[what], **BY_HAND, override_gate=True)

    def challenge(self, what: str) -> dg.ExecuteInProcessResult:
        self.registry.set_alias(MODEL, self.number[what], CHALLENGER)
        return dg.materialize(
            [readmission_evaluation, readmission_champion], resources=self.resources, instance=self.instance
        )


@pytest.fixture
def contest(postgres: str, entrants: Entrants, tmp_path: Path) -> Iterator[Contest]:
    with (
        copied_database(postgres, entrants.warehouse) as here,
        copied_database(postgres, entrants.registry) as there,
    ):
        artifacts = (entrants.folder / "artifacts").as_uri()
        warehouse = Warehouse(here)
        yield Contest(warehouse, ModelRegistry(there, artifacts, tmp_path / "cache"), entrants, tmp_path)
        warehouse.close()


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


@pytest.mark.parametrize(
    ("what", "reason", "absent"),
    [
        ("miscalibrated", "The calibration slope is 0.", ()),
        ("in-sample", "worse than that of champion by the paired interval", ("slope",)),
        ("subgroup", "for primary_diagnosis_group = respiratory", ("slope", "by the paired interval")),
    ],
)
def test_a_challenger_with_a_fault_is_refused_with_its_reason(
    contest: Contest, what: str, reason: str, absent: tuple[str, ...]
) -> None:
    contest.champion("sound" if what == "in-sample" else "weak")
    before = contest.registry.version_with(MODEL, CHAMPION)
    result = contest.challenge(what)
    assert result.success
    decision = shown(result, "readmission_champion")
    assert (decision["decision"], decision["champion_after"]) == (REFUSED, before)
    assert reason in decision["reason"]
    assert not [text for text in absent if text in decision["reason"]]
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert contest.registry.version_with(MODEL, CHAMPION) == before
    (entered,) = (d for d in journal(contest.warehouse, MODEL) if d.decision == REFUSED)
    tags = next(v.tags for v in contest.registry.versions(MODEL) if v.version == contest.number[what])
    assert entered.reason == decision["reason"] == tags[REFUSED_TAG]


def test_the_first_model_is_refused_if_it_does_not_beat_both_baselines(contest: Contest) -> None:
    decision = shown(contest.challenge("in-sample"), "readmission_champion")
    assert (decision["decision"], decision["champion_after"]) == (REFUSED, "none")
    assert "logistic_regression, which it must beat" in decision["reason"]


def test_a_better_challenger_is_promoted_and_its_report_is_in_dagster_and_mlflow(
    contest: Contest, tmp_path: Path
) -> None:
    contest.champion("weak")
    result = contest.challenge("sound")
    evaluation, decision = (shown(result, f"readmission_{name}") for name in ("evaluation", "champion"))
    sound = contest.number["sound"]
    assert (decision["decision"], decision["champion_after"]) == ("promoted", sound)
    assert contest.registry.champion(MODEL).version == sound
    assert contest.registry.version_with(MODEL, CHALLENGER) is None

    assert evaluation["passes_the_gate"]
    assert evaluation["compared_with_champion"]
    assert evaluation["plots"].count("data:image/png;base64,") >= 3
    assert len(evaluation["plots"]) < 250_000
    page = Path(evaluation["report"])
    assert page.parent == tmp_path / "reports" / MODEL / str(sound)
    fetched = contest.registry.attached(MODEL, sound, EVALUATION, tmp_path / "fetched")
    assert (fetched / page.name).read_bytes() == page.read_bytes()
    (stored,) = (v for v in contest.registry.versions(MODEL) if v.version == sound)
    assert stored.metrics["evaluation.auroc.lower"] < stored.metrics["evaluation.auroc"]
    assert evaluation["report_in_mlflow"].startswith("http://localhost:5000/#/experiments/")

    again = contest.challenge("sound")
    assert shown(again, "readmission_champion")["decision_id"] == decision["decision_id"]


def test_a_champion_of_another_contract_is_not_compared_with_and_the_baselines_alone_decide(
    contest: Contest, model: ReadmissionModel, tmp_path: Path
) -> None:
    foreign = replace(model, manifest=model.manifest.model_copy(update={"contract_hash": "d" * 64}))
    former = register(contest.registry, foreign, tmp_path / "foreign")
    contest.registry.set_alias(MODEL, former)
    result = contest.challenge("miscalibrated")
    evaluation, decision = (shown(result, f"readmission_{name}") for name in ("evaluation", "champion"))
    assert (evaluation["champion"], evaluation["compared_with_champion"]) == (former, False)
    assert (decision["champion_before"], decision["decision"]) == (former, REFUSED)
    rules = [record.data["rule"] for record in evaluation["rules"].records]
    assert any("lace_like" in rule for rule in rules)
    assert not any("that of champion" in rule for rule in rules)
