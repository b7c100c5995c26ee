"""Which engine scores a quarter's members: this process, Spark in reach of this machine, or Amazon EMR.

Belongs here: choosing by the settings, what a Spark job is given, and the way of its sums into the one
publication. Does not belong here: how a job is started (`spark/launchers.py`), what it does (`spark_job.py`),
and publishing (`publish.py`).
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg

from medscore_assets.readmission.policy import Policy
from medscore_assets.readmission.population.quarters import Quarter
from medscore_assets.readmission.scoring import ReadmissionModel
from medscore_assets.settings import Settings
from medscore_assets.spark.exchange import SCRIPT_FILE, Exchange, versions
from medscore_assets.spark.launchers import Launcher, SettingNames, awaited, launcher, load_options
from resources.errors import IntegrityError
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    from medscore_assets.readmission.population.exchange import Task
    from medscore_assets.readmission.population.partial import Partial
    from medscore_assets.readmission.population.publish import Summary

SETTINGS = SettingNames(
    "MEDSCORE_POPULATION_ENGINE", "MEDSCORE_POPULATION_SPARK_FILE", "MEDSCORE_POPULATION_EXCHANGE", "local"
)

EngineName = Literal["local", "spark", "emr"]


@dataclass(frozen=True, slots=True)
class Champion:
    """What a quarter is scored with, and where that is from."""

    model: ReadmissionModel
    version: int
    directory: Path
    policy: Policy
    policy_file: Path


class PopulationEngine(ABC):
    """Scores the members of a quarter. Whichever does, the summary is the same to the last bit."""

    @abstractmethod
    def publish(
        self,
        context: dg.AssetExecutionContext,
        warehouse: Warehouse,
        quarter: Quarter,
        champion: Champion,
    ) -> Summary:
        """Score a quarter's members and replace its cells, or raise and leave them as they are."""


class LocalEngine(PopulationEngine):
    """Streams the members from the warehouse through this process."""

    def publish(
        self, context: dg.AssetExecutionContext, warehouse: Warehouse, quarter: Quarter, champion: Champion
    ) -> Summary:
        from medscore_assets.readmission.population.publish import publish_summary

        return publish_summary(warehouse, quarter, champion.model, champion.version, champion.policy)


@dataclass(frozen=True)
class SparkEngine(PopulationEngine):
    """Exports the members to Parquet and has a Spark job sum them, by Dagster Pipes.

    `address` is where both exchange files: a folder or `s3://bucket/prefix`. `scratch` is a folder for
    logs and downloads, `options_file` the TOML file of Spark's options.
    """

    name: Literal["spark", "emr"]
    address: str
    scratch: Path
    options_file: Path | None = None

    def publish(
        self, context: dg.AssetExecutionContext, warehouse: Warehouse, quarter: Quarter, champion: Champion
    ) -> Summary:
        """As of `PopulationEngine`. The lock is held to publish, not while Spark works.

        Raises `TransientError` if the members were loaded again meanwhile, `PermanentError` naming Spark's
        log if the job fails.
        """
        from medscore_assets.readmission.population.export import export_members
        from medscore_assets.readmission.population.publish import publish_partial

        launching = launcher(self.name, load_options(self.options_file, SETTINGS), self.scratch, SETTINGS)
        exchange = Exchange(self.address, self.scratch)
        launching.require_ready(exchange)
        members, export = export_members(warehouse, quarter, exchange)
        context.log.info("%s: %s members are in %s", quarter, f"{export.rows:,}", exchange.url(members))
        task = staged(exchange, members, f"runs/{quarter}-{uuid.uuid4().hex}", champion)
        partial = launched(context, launching, exchange, task)
        made = publish_partial(
            warehouse,
            quarter,
            partial,
            export.loaded_at,
            champion.model,
            champion.version,
            champion.policy,
        )
        exchange.discard(task.run)
        launching.forget(task)
        return made


def staged(exchange: Exchange, members: str, run: str, champion: Champion) -> Task:
    """Put what a job needs into the folder `run`: the script, the model's files, the policy."""
    from medscore_assets.readmission.population import spark_job
    from medscore_assets.readmission.population.exchange import EXPORT_FILE, POLICY_FILE, Task
    from resources.artifacts import MANIFEST_FILE, sha256

    model_files = (MANIFEST_FILE, *champion.model.manifest.files)
    manifest = (champion.directory / MANIFEST_FILE).read_bytes()
    for name in model_files:
        exchange.put(f"{run}/{name}", (champion.directory / name).read_bytes())
    exchange.put(f"{run}/{POLICY_FILE}", champion.policy_file.read_bytes())
    # Beside its own modules the script would hide others of the same names.
    exchange.put(f"{run}/{SCRIPT_FILE}", Path(spark_job.__file__).read_bytes())
    return Task(
        address=exchange.address,
        members=members,
        export_sha256=sha256(exchange.read(f"{members}/{EXPORT_FILE}")),
        run=run,
        model_files=model_files,
        manifest_sha256=sha256(manifest),
        policy_hash=champion.policy.hash,
        packages=versions(spark_job.PACKAGES),
    )


def launched(
    context: dg.AssetExecutionContext, launching: Launcher, exchange: Exchange, task: Task
) -> Partial:
    """The sums of a job that was run to its end. Raises `PermanentError`, of the job or of its starting."""
    from medscore_assets.readmission.population.exchange import SUMS_FILE
    from medscore_assets.readmission.population.partial import Partial
    from resources.artifacts import sha256

    told = awaited(context, launching, exchange, task, again="run the report again")
    stated = told[-1]["sha256"] if told else None
    content = exchange.read(f"{task.run}/{SUMS_FILE}")
    if sha256(content) != stated:
        raise IntegrityError(
            "the sums that were found are not those that the Spark job told of",
            where=f"{exchange.url(task.run)}/{SUMS_FILE}; log: {launching.log(task)}",
            mend="Run the report again.",
        )
    context.log.info("Spark summed %s members in %s partitions", told[-1]["rows"], told[-1]["partitions"])
    return Partial.from_bytes(content)


def population_engine(settings: Settings) -> PopulationEngine:
    """The engine that the settings name. Nothing is opened before it is used."""
    if settings.population_engine == "local":
        return LocalEngine()
    return SparkEngine(
        settings.population_engine,
        settings.population_exchange_url,
        settings.home / "spark",
        settings.population_spark_file,
    )
