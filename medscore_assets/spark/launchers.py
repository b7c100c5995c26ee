"""How a Spark job is started and awaited by Dagster Pipes: spark-submit from here, EMR, EMR Serverless.

Belongs here: the options of Spark, commands and requests, where the logs are, how a job ended. Does not
belong here: what the job is given and what becomes of what it made (a family's engine).

No log of Spark is forwarded to Dagster: a log may quote rows.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import shlex
import sys
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import BaseModel, ConfigDict, ValidationError

from medscore_assets.spark.exchange import (
    ERROR_FILE,
    LOG_FILE,
    SCRIPT_FILE,
    TASK,
    Exchange,
    Task,
    error_from_bytes,
)
from resources.errors import MedscoreError, PermanentError

if TYPE_CHECKING:
    from dagster._core.pipes.client import PipesClientCompletedInvocation

LOCAL_MASTER = "local[*]"
WITHIN_THIS_MACHINE = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
}
"""Nothing listens to other machines."""

PYTHON_OF_ENVIRONMENT = "./environment/bin/python"


@dataclass(frozen=True, slots=True)
class SettingNames:
    """The settings that errors name: which engine, its options, where files are exchanged."""

    engine: str
    spark_file: str
    exchange: str
    without_spark: str
    """The value of `engine` for which no Spark is needed."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EmrOptions(_Options):
    """The table `emr` of the options file."""

    service: Literal["emr", "emr-serverless"] = "emr"
    region: str
    environment: str | None = None
    """A packed Python environment with MedScore: `s3://....tar.gz`. None if the image has it."""
    request: dict[str, Any]
    """As boto3's `run_job_flow` (emr) or `start_job_run` (emr-serverless) takes it; the step is added."""


class SparkOptions(_Options):
    """The options file."""

    master: str = LOCAL_MASTER
    conf: dict[str, str | bool | int] = {}
    """Spark's properties, as of spark-submit's `--conf`."""
    emr: EmrOptions | None = None


def load_options(file: Path | None, names: SettingNames) -> SparkOptions:
    """The options in a TOML file; the defaults without one. Raises `PermanentError` naming what is wrong."""
    if file is None:
        return SparkOptions()
    try:
        return SparkOptions.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        what = f"the options of Spark cannot be read: {error}"
    except ValidationError as error:
        entries = ", ".join(".".join(map(str, e["loc"])) for e in error.errors(include_input=False))
        what = f"the options of Spark are not valid: {entries}"
    raise PermanentError(what, where=str(file), mend=f"Correct the file of {names.spark_file}.")


class Launcher(ABC):
    """Runs a task to its end."""

    @abstractmethod
    def require_ready(self, exchange: Exchange) -> None:
        """Raises `PermanentError` if a job could not be started, before anything is exported."""

    @abstractmethod
    def log(self, task: Task) -> str:
        """Where Spark's log of the task is."""

    @abstractmethod
    def run(
        self, context: dg.AssetExecutionContext, exchange: Exchange, task: Task
    ) -> PipesClientCompletedInvocation:
        """Start the job and wait. Raises whatever its starting, or a job that failed, raises."""

    @abstractmethod
    def forget(self, task: Task) -> None:
        """Delete the log of a task that succeeded, if it is on this machine."""


def launcher(
    name: Literal["spark", "emr"], options: SparkOptions, scratch: Path, names: SettingNames
) -> Launcher:
    """The launcher of an engine. Raises `PermanentError` if its options are absent."""
    if name == "spark":
        return SubmitLauncher(options, scratch, names)
    if options.emr is None:
        raise PermanentError(
            "the engine emr has no options",
            where=names.spark_file,
            mend="Name a file with a table [emr]: service, region, environment, request.",
        )
    return EmrLauncher(options.emr, options.conf, names)


class SubmitLauncher(Launcher):
    """spark-submit of the extra `spark`, with the driver on this machine. The log is a file in `scratch`."""

    def __init__(self, options: SparkOptions, scratch: Path, names: SettingNames) -> None:
        self._options, self._scratch, self._names = options, scratch, names

    def require_ready(self, exchange: Exchange) -> None:
        self._environment()

    def log(self, task: Task) -> str:
        return str(self._log(task))

    def run(
        self, context: dg.AssetExecutionContext, exchange: Exchange, task: Task
    ) -> PipesClientCompletedInvocation:
        environment = self._environment()
        log = self._log(task)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch(mode=0o600)
        submit = [f"{environment['SPARK_HOME']}/bin/spark-submit", *self._arguments(exchange, task)]
        # The shell gives way to spark-submit, which then is what Dagster interrupts.
        command = ["/bin/sh", "-c", 'exec "$@" >>"$0" 2>&1', str(log), *submit]
        return dg.PipesSubprocessClient().run(
            context=context, command=command, env=environment, extras={TASK: task.model_dump(mode="json")}
        )

    def forget(self, task: Task) -> None:
        self._log(task).unlink(missing_ok=True)

    def _log(self, task: Task) -> Path:
        return self._scratch / f"{task.run.rpartition('/')[2]}-{LOG_FILE}"

    def _arguments(self, exchange: Exchange, task: Task) -> list[str]:
        master, script = self._options.master, f"{task.run}/{SCRIPT_FILE}"
        conf = {**(WITHIN_THIS_MACHINE if master.startswith("local") else {}), **self._options.conf}
        return ["--master", master, *_conf(conf), str(exchange.local(script) or exchange.url(script))]

    def _environment(self) -> dict[str, str]:
        """What spark-submit finds Spark, Java and Python by. The job needs no setting of MedScore."""
        found = importlib.util.find_spec("pyspark")
        if found is None or found.origin is None:
            raise _missing("Spark is not installed", self._names)
        return {
            **{name: "" for name in os.environ if name.startswith("MEDSCORE_")},
            "JAVA_HOME": _java_home(self._names),
            "SPARK_HOME": str(Path(found.origin).parent),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
        }


class EmrLauncher(Launcher):
    """A cluster of EMR that ends with its step, or a job of EMR Serverless; the driver is on AWS."""

    def __init__(self, options: EmrOptions, conf: dict[str, str | bool | int], names: SettingNames) -> None:
        self._options, self._conf, self._names = options, conf, names

    def require_ready(self, exchange: Exchange) -> None:
        if not exchange.address.startswith("s3://"):
            raise PermanentError(
                "EMR does not reach a folder of this machine",
                where=self._names.exchange,
                mend="Set it to s3://bucket/prefix, which both EMR and this machine may read and write.",
            )

    def log(self, task: Task) -> str:
        stated = self._options.request.get("LogUri")
        return str(stated or f"where {self._options.service} in {self._options.region} is set to log")

    def run(
        self, context: dg.AssetExecutionContext, exchange: Exchange, task: Task
    ) -> PipesClientCompletedInvocation:
        import boto3
        from dagster_aws.pipes import PipesEMRClient, PipesEMRServerlessClient

        region = self._options.region
        reader = messages_under(exchange.url(task.run), boto3.client("s3", region_name=region))
        client = boto3.client(self._options.service, region_name=region)
        extras = {TASK: task.model_dump(mode="json")}
        if self._options.service == "emr":
            return PipesEMRClient(message_reader=reader, client=client).run(
                context=context, run_job_flow_params=self.job_flow(exchange, task), extras=extras
            )
        return PipesEMRServerlessClient(message_reader=reader, client=client).run(
            context=context, start_job_run_params=self.job_run(exchange, task), extras=extras
        )

    def forget(self, task: Task) -> None:
        pass

    def job_flow(self, exchange: Exchange, task: Task) -> Any:
        """The request for a cluster that does the step and ends."""
        request = copy.deepcopy(self._options.request)
        submit = [
            "spark-submit",
            "--deploy-mode",
            "cluster",
            *_conf(self._properties("spark.yarn.appMasterEnv")),
        ]
        step = {
            "Name": f"MedScore {task.run}",
            "ActionOnFailure": "TERMINATE_CLUSTER",
            "HadoopJarStep": {
                "Jar": "command-runner.jar",
                "Args": [*submit, exchange.url(f"{task.run}/{SCRIPT_FILE}")],
            },
        }
        request.setdefault("Applications", [{"Name": "Spark"}])
        request["Steps"] = [*request.get("Steps", []), step]
        # A cluster that stays would be waited for for ever.
        request["Instances"] = {**request.get("Instances", {}), "KeepJobFlowAliveWhenNoSteps": False}
        return request

    def job_run(self, exchange: Exchange, task: Task) -> Any:
        """The request for a job of a serverless application."""
        request = copy.deepcopy(self._options.request)
        submit = request.setdefault("jobDriver", {}).setdefault("sparkSubmit", {})
        submit["entryPoint"] = exchange.url(f"{task.run}/{SCRIPT_FILE}")
        given = submit.get("sparkSubmitParameters", "")
        added = shlex.join(_conf(self._properties("spark.emr-serverless.driverEnv")))
        submit["sparkSubmitParameters"] = f"{given} {added}".strip()
        return request

    def _properties(self, driver: str) -> dict[str, str | bool | int]:
        """Spark's properties; `driver` begins those of the driver's environment variables."""
        if self._options.environment is None:
            return self._conf
        return {
            "spark.archives": f"{self._options.environment}#environment",
            f"{driver}.PYSPARK_DRIVER_PYTHON": PYTHON_OF_ENVIRONMENT,
            f"{driver}.PYSPARK_PYTHON": PYTHON_OF_ENVIRONMENT,
            "spark.executorEnv.PYSPARK_PYTHON": PYTHON_OF_ENVIRONMENT,
            **self._conf,
        }


def awaited(
    context: dg.AssetExecutionContext, launching: Launcher, exchange: Exchange, task: Task, *, again: str
) -> list[Any]:
    """What a job told, run to its end.

    Raises `PermanentError`, naming Spark's log: what the job left of its error, or else how it ended. `again`
    is what to do then, such as "run the days again".
    """
    log = launching.log(task)
    try:
        return list(launching.run(context, exchange, task).get_custom_messages())
    except MedscoreError:
        raise
    except Exception as error:
        name = f"{task.run}/{ERROR_FILE}"
        if exchange.has(name):
            failed = error_from_bytes(exchange.read(name))
            raise PermanentError(failed.what, where=f"{failed.where}; log: {log}", mend=failed.mend) from None
        kind = getattr(error, "response", {}).get("Error", {}).get("Code") or type(error).__name__
        # Not chained: the text of a cluster may quote what its logs hold.
        raise PermanentError(
            f"the Spark job did not come to its end: {kind}",
            where=f"log: {log}",
            mend=f"See that log, correct the job's options or its environment, and {again}.",
        ) from None


def messages_under(url: str, client: Any) -> Any:
    """A reader of what a job tells through S3, under `url`, and of no log."""
    from dagster_aws.pipes import PipesS3MessageReader

    parts = urlsplit(url)
    key_prefix = f"{parts.path.strip('/')}/messages"

    class Messages(PipesS3MessageReader):
        def __init__(self) -> None:
            # EMR's client takes what comes with the messages for all there is, and looks for no log.
            super().__init__(bucket=parts.netloc, client=client, include_stdio_in_messages=True)

        @contextmanager
        def get_params(self) -> Iterator[Any]:
            yield {"bucket": parts.netloc, "key_prefix": key_prefix}

        def add_log_reader(self, log_reader: Any) -> None:
            """Logs stay where the cluster writes them."""

    return Messages()


def _java_home(names: SettingNames) -> str:
    from medscore_assets.spark.java import java_home

    try:
        return java_home()
    except PermanentError as error:
        raise _missing(error.what, names) from None


def _missing(what: str, names: SettingNames) -> PermanentError:
    return PermanentError(
        what,
        where=names.engine,
        mend=f"In the project's folder: make .venv/tools; or choose the engine {names.without_spark}.",
    )


def _conf(properties: dict[str, str | bool | int]) -> list[str]:
    """As arguments of spark-submit."""
    found: list[str] = []
    for name, value in properties.items():
        found += ["--conf", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    return found
