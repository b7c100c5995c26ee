"""A site to measure: its own PostgreSQL, a registered champion, an issuer of tokens, and requests.

Belongs here: what the benchmark and the soak test both set up. Does not belong here: servers and clients
(`loopback.py`), and what is measured.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import jwt
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.loopback import Server, free_port
from benchmarks.own_database import own_settings
from medscore_assets.contracts.contract import Contract
from medscore_assets.contracts.fields import Category, Whole
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.contracts.schemas import mlflow_signature
from medscore_assets.database import prepare
from medscore_assets.demo.discharges import DemoPlan, generate
from medscore_assets.readmission.cohort import training_cohort
from medscore_assets.readmission.policy import load_policy
from medscore_assets.readmission.scoring import MODEL, ReadmissionModel
from medscore_assets.readmission.training import train
from medscore_assets.settings import Settings
from resources.registry import CHAMPION, ModelRegistry
from resources.warehouse import Warehouse

PREDICT = "/v1/readmission/predict"

_AUDIENCE, _ISSUER = "medscore-benchmark", "https://issuer.invalid"
_LIKELY = {
    "patient_age": (18, 95),
    "length_of_stay_days": (1, 20),
    "num_prior_admissions_12m": (0, 6),
    "num_chronic_conditions": (0, 9),
    "num_medications_at_discharge": (0, 20),
}


@dataclass
class Site:
    """One site under a home of its own."""

    settings: Settings
    warehouse: Warehouse
    registry: ModelRegistry
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def prepare(cls, home: Path) -> Site:
        """Start PostgreSQL, make the databases, and write the access file."""
        key = ec.generate_private_key(ec.SECP384R1())
        (home / "issuer.pem").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        access = home / "access.toml"
        access.write_text(
            f'[issuers.benchmark]\nissuer = "{_ISSUER}"\naudience = "{_AUDIENCE}"\n'
            'algorithms = ["ES384"]\nkeys_file = "issuer.pem"\ndefault_roles = ["coordinator"]\n'
        )
        settings = own_settings(home, access_file=access)
        databases = settings.databases()
        prepare(databases)
        registry = ModelRegistry(
            databases.mlflow, artifacts=settings.mlflow_artifacts_url, cache=home / "models"
        )
        return cls(settings, Warehouse(databases.warehouse), registry, key)

    def register(self, model: ReadmissionModel) -> int:
        """Register a model as the training run does; its version."""
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder))
            return self.registry.register(MODEL, Path(folder), signature=mlflow_signature(READMISSION))

    def set_champion(self, version: int) -> None:
        self.registry.set_alias(MODEL, version, CHAMPION)

    def model(self, version: int) -> ReadmissionModel:
        """A registered version, as the scorer takes it."""
        return ReadmissionModel.load(self.registry.stored(MODEL, version).directory, READMISSION)

    def token(self, token_id: str = "1") -> str:
        """A coordinator's token, valid for an hour. Another id makes another token."""
        now = int(time.time())
        whose = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "coordinator-1", "jti": token_id}
        claims = {**whose, "iat": now, "exp": now + 3600}
        return jwt.encode(claims, self.key, algorithm="ES384")

    def start_api(self, *, core: int | None = None, port: int | None = None, **more: str) -> Server:
        """`medscore serve`, one worker. `more` are settings by the names of their variables."""
        port = port or free_port()
        environment = {
            "MEDSCORE_HOME": str(self.settings.home),
            "MEDSCORE_ACCESS_FILE": str(self.settings.access_file),
            "MEDSCORE_API_PORT": str(port),
            "MEDSCORE_API_RATE": "1000000",
            **more,
        }
        return Server.start(
            [sys.executable, "-m", "medscore_assets.cli", "serve"],
            port,
            self.settings.home / "api.log",
            environment=environment,
            core=core,
        )

    def postmaster(self) -> int:
        """The process id of the embedded PostgreSQL."""
        return int((self.settings.postgres_directory / "data" / "postmaster.pid").read_text().split()[0])


def train_demo(seed: int) -> ReadmissionModel:
    """A model of the demo plan; another seed gives another model."""
    demo = generate(DemoPlan(first_day=date(2025, 1, 1), last_day=date(2026, 7, 4), seed=seed))
    no_outcomes = pa.table(
        {
            "encounter_id": pa.array([], pa.string()),
            "readmitted_within_30_days": pa.array([], pa.bool_()),
            "source": pa.array([], pa.string()),
            "recorded_at": pa.array([], pa.timestamp("us", "UTC")),
        }
    )
    cohort = training_cohort(
        demo.events, demo.admissions, no_outcomes, as_of=datetime(2026, 7, 5, tzinfo=UTC)
    )
    return train(cohort.table, READMISSION, policy_hash=load_policy().hash).model


def patients(number: int, contract: Contract = READMISSION, seed: int = 0) -> list[dict[str, Any]]:
    """Likely patients, the same at every run; each category is one that the source document has too."""
    drawn = random.Random(seed)

    def value(feature: Any) -> Any:
        if isinstance(feature, Whole):
            return drawn.randint(*_LIKELY[feature.name])
        if isinstance(feature, Category):
            return drawn.choice([c for c in feature.categories if c != "unknown"])
        return drawn.random() < 0.5

    return [{f.name: value(f) for f in contract.features} for _ in range(number)]


def as_json(value: Mapping[str, Any]) -> bytes:
    """Compact, as clients send it."""
    return json.dumps(value, separators=(",", ":")).encode()


@contextmanager
def on_core(core: int) -> Any:
    """This process, and what it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
