"""Every setting of MedScore: one environment variable each, typed, with its default.

Belongs here: reading and checking `MEDSCORE_*`, from the environment and from `.env` in the project's
folder, and what follows from them without I/O (paths, database addresses).
Does not belong here: business rules; they are versioned data (`readmission/policy.toml`). What is done to an
address of a database: `database_addresses.py`; names of variables and refusals: `environment.py`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from medscore_assets.database_addresses import Databases, is_postgresql, with_database
from medscore_assets.database_tls import verified
from medscore_assets.environment import PREFIX, refuse_unknown, wrong_value

_PACKAGE = Path(__file__).resolve().parent

PROJECT_ROOT = _PACKAGE.parent if (_PACKAGE.parent / "dagster.yaml").exists() else Path.cwd()
"""The folder of `dagster.yaml` and `.env`, at which relative paths start."""

ProjectPath = Annotated[Path, AfterValidator(lambda path: PROJECT_ROOT / path.expanduser())]


class Settings(BaseSettings):
    """What the environment says. A wrong value, or a variable that does not exist, is a `PermanentError`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=PROJECT_ROOT / ".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    home: ProjectPath = Field(
        default=Path(".medscore"),
        description="Where MedScore keeps its files: the embedded database, model files, logs.",
    )
    database_insecure: bool = Field(
        default=False,
        description="Whether an address of a database on another machine may name an sslmode weaker than "
        "verify-full. Only for a connection that something else encrypts, such as a private network.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="The warehouse's PostgreSQL, as postgresql://user:password@host:port/database. "
        "Without it a PostgreSQL server of its own is started under MEDSCORE_HOME. On another machine "
        "sslmode=verify-full is added unless it is there, and a weaker one is refused; sslrootcert names the "
        "certificate authority, by default any that this machine trusts.",
    )
    dagster_database_url: SecretStr | None = Field(
        default=None,
        description="The database of Dagster's runs, events and schedules. By default on the warehouse's "
        "server, with _dagster added to the warehouse's name.",
    )
    mlflow_database_url: SecretStr | None = Field(
        default=None,
        description="The database of MLflow's runs and models. By default on the warehouse's server, with "
        "_mlflow added to the warehouse's name.",
    )
    mlflow_artifacts: str | None = Field(
        default=None,
        description="Where model files are kept: a folder or a URL (s3://...). The default is the folder "
        "mlflow under MEDSCORE_HOME.",
    )
    lake: str | None = Field(
        default=None,
        description="Where the lake of step records is: a folder or s3://bucket/prefix. The default is the "
        "folder lake under MEDSCORE_HOME.",
    )
    population_engine: Literal["local", "spark", "emr"] = Field(
        default="local",
        description="What scores the members of a quarter for the population report: this process, Spark "
        "through spark-submit, or Amazon EMR.",
    )
    population_exchange: str | None = Field(
        default=None,
        description="Where members in Parquet and the sums of a Spark job are handed over: a folder or "
        "s3://bucket/prefix. The default is the folder population under MEDSCORE_HOME.",
    )
    population_spark_file: ProjectPath | None = Field(
        default=None,
        description="The options of Spark for the population report: master, properties, and the request for "
        "EMR. Without it Spark runs within this machine.",
    )
    lake_s3_endpoint: str | None = Field(
        default=None, description="The S3 service of the lake, if it is not Amazon's: https://host:port."
    )
    lake_s3_region: str | None = Field(default=None, description="The region of the lake's bucket.")
    lake_s3_profile: str | None = Field(
        default=None,
        description="The profile of AWS's tools whose credentials open the lake. Without it they come from "
        "where AWS's tools look; they are never a setting of MedScore.",
    )
    mobility_engine: Literal["duckdb", "spark", "emr"] = Field(
        default="duckdb",
        description="What makes days of steps and features: this process (steps by compiled loops, the rest "
        "by DuckDB), Spark through spark-submit, or Amazon EMR.",
    )
    mobility_spark_file: ProjectPath | None = Field(
        default=None,
        description="The options of Spark for mobility, in the form of MEDSCORE_POPULATION_SPARK_FILE. "
        "Without it Spark runs within this machine.",
    )
    mobility_hour: int = Field(
        default=5,
        ge=0,
        le=6,
        description="The hour, local time, at which the mobility forecasts of the day are made.",
    )
    timezone: str = Field(
        default="America/New_York",
        description="The zone in which mornings begin and the lists are made, by its IANA name.",
    )
    first_day: date = Field(
        default=date(2024, 1, 1),
        description="The first day for which lists, days of steps and quarters can be made, as YYYY-MM-DD.",
    )
    schedules: Literal["running", "stopped"] = Field(
        default="stopped",
        description="Whether schedules and sensors are on where nobody has switched them in Dagster's UI.",
    )
    policy_file: ProjectPath | None = Field(
        default=None,
        description="Tiers, actions and disclaimer. The default is the policy in the package.",
    )
    thresholds_file: ProjectPath | None = Field(
        default=None,
        description="From when on drift and loss of performance are a warning or an alarm. The default is "
        "the file in the package.",
    )
    alerts_file: ProjectPath | None = Field(
        default=None,
        description="Who is told what, and how. The default is the file in the package: everything to the "
        "log and, where they are set, to the webhook and the mailbox.",
    )
    alert_webhook_url: SecretStr | None = Field(
        default=None,
        description="Where alerts are posted as JSON: Slack, Teams, Mattermost or a receiver of your own.",
    )
    alert_webhook_secret: SecretStr | None = Field(
        default=None,
        description="With it each message is signed (HMAC-SHA256, the header webhook-signature).",
    )
    alert_smtp_url: SecretStr | None = Field(
        default=None,
        description="The mail server for alerts, as smtp://user:password@host:587 (STARTTLS) or smtps://.",
    )
    alert_email_from: str | None = Field(default=None, description="The sender of alerts by e-mail.")
    alert_email_to: str | None = Field(
        default=None, description="Who gets alerts by e-mail: addresses, separated by commas."
    )
    heartbeat_url: SecretStr | None = Field(
        default=None,
        description="Asked each minute while all is well, so that a dead-man service elsewhere notices when "
        "this machine is gone.",
    )
    retraining_cooldown_days: int = Field(
        default=3,
        ge=1,
        description="How long after any training, failed ones included, degradation asks for no other one.",
    )
    mobility_cooldown_days: int = Field(
        default=7,
        ge=1,
        description="The same for mobility: how long after a training worse forecasts ask for no other one.",
    )
    mobility_training_file: ProjectPath | None = Field(
        default=None,
        description="How mobility models are boosted, as medscore mobility tune writes it. Without it the "
        "settings in the code.",
    )
    wait_models_file: ProjectPath | None = Field(
        default=None,
        description="Which wait-time models run, those behind HTTP among them. The default is the file in "
        "the package.",
    )
    wait_model: str = Field(
        default="queue_fluid_calibrated",
        description="The wait-time model that boards show where nobody has promoted one. Before it has ever "
        "run, the one that does best.",
    )
    wait_model_version: str | None = Field(
        default=None, description="The version of MEDSCORE_WAIT_MODEL. Without it the latest one that ran."
    )
    wait_times_public: bool = Field(
        default=False,
        description="Whether anybody may read the waits that are shown, without a token: feed, boards, and "
        "GET /wait_time without a model. Otherwise any role may.",
    )
    keep_waits_days: int = Field(
        default=400,
        ge=60,
        description="How long predictions of wait times, their outcomes and fitted parameters are kept. "
        "Ticks and performance are kept as long as the audit, assignments for good.",
    )
    keep_forecasts_days: int = Field(
        default=400,
        ge=90,
        description="How long forecasts of steps and their outcomes are kept in the warehouse, in whole "
        "months. Routes are kept for good, and so are the lake's files.",
    )
    ray_address: str | None = Field(
        default=None,
        description="The Ray cluster that searches for better settings, as host:6379 of its head node. "
        "Without it Ray is started on this machine for the search.",
    )
    source_silence_hours: int = Field(
        default=36,
        ge=1,
        description="How long a feed may deliver nothing before it is reported.",
    )
    unwatched_sources: str = Field(
        default="demo,uci-diabetes",
        description="Sources that were loaded once, separated by commas: their silence means nothing.",
    )
    keep_lists_days: int = Field(
        default=730,
        ge=90,
        description="How long lists are kept, with their scores, exclusions, quarantine and outcomes. Scores "
        "whose outcome may still come are kept longer.",
    )
    keep_audit_days: int = Field(
        default=2192,
        ge=365,
        description="How long decisions about models, their measures, and alerts that are over are kept: by "
        "default six years.",
    )
    keep_run_logs_days: int = Field(
        default=30,
        ge=7,
        description="How long the log of a Dagster run is kept, and what its steps printed. That the run "
        "was, and what it materialized and checked, is kept.",
    )
    dagster_port: int = Field(
        default=3000, ge=1, le=65535, description="The port of Dagster's UI, on this machine only."
    )
    mlflow_port: int = Field(
        default=5000, ge=1, le=65535, description="The port of MLflow's UI, on this machine only."
    )
    api_host: str = Field(
        default="127.0.0.1",
        description="The address that the API listens on. Another one than this machine's own needs an "
        "issuer of tokens in MEDSCORE_ACCESS_FILE.",
    )
    api_port: int = Field(default=8000, ge=1, le=65535, description="The port of the API.")
    api_rate: int = Field(
        default=6000,
        ge=1,
        description="How many requests a minute the API takes from one client. After a pause, those of ten "
        "seconds may come at once.",
    )
    shadow: bool = Field(
        default=False,
        description="Whether the API also scores with the model under the alias challenger, into a table of "
        "its own that nobody is shown.",
    )
    access_file: ProjectPath | None = Field(
        default=None,
        description="Who may use the API: issuers of tokens, roles, origins. Without it nobody is told "
        "apart, and the API listens on this machine only.",
    )
    cds_file: ProjectPath | None = Field(
        default=None,
        description="How CDS Hooks cards look: indicators, proposals, texts. The default is the file in the "
        "package serving.",
    )
    fhir_codes_file: ProjectPath | None = Field(
        default=None,
        description="How FHIR codes are read: diagnoses, dispositions, payers. The default is the file in "
        "the package serving; have your coders review it.",
    )
    test_data: ProjectPath | None = Field(
        default=None,
        description="For tests and benchmarks: the folder of public data sets; what needs them is left out "
        "where it is absent. The default is shared/data beside the project's folder.",
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise wrong_value(error) from None
        refuse_unknown(type(self).model_fields, self.model_config.get("env_file"))

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            return ZoneInfo(name).key
        except (ValueError, OSError, KeyError):
            raise ValueError("is not the IANA name of a time zone, such as Europe/Berlin") from None

    @field_validator("database_url", "dagster_database_url", "mlflow_database_url")
    @classmethod
    def _postgresql(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url is not None:
            if not is_postgresql(url.get_secret_value()):
                raise ValueError("is not of the form postgresql://user:password@host:port/database")
            url = SecretStr(
                verified(url.get_secret_value(), weak_allowed=bool(info.data.get("database_insecure")))
            )
        return url

    @field_validator("alert_webhook_url", "alert_smtp_url", "heartbeat_url")
    @classmethod
    def _address(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        schemes = ("smtp", "smtps") if info.field_name == "alert_smtp_url" else ("http", "https")
        if url is not None:
            parts = urlsplit(url.get_secret_value())
            if parts.scheme not in schemes or not parts.hostname:
                raise ValueError(f"is not an address that begins with {' or '.join(schemes)}://")
        return url

    @property
    def zone(self) -> ZoneInfo:
        """The named zone."""
        return ZoneInfo(self.timezone)

    @property
    def policy_path(self) -> Path:
        """The policy file in force."""
        return self.policy_file or _PACKAGE / "readmission" / "policy.toml"

    @property
    def thresholds_path(self) -> Path:
        """The file of monitoring thresholds in force."""
        return self.thresholds_file or _PACKAGE / "monitoring" / "thresholds.toml"

    @property
    def wait_models_path(self) -> Path:
        """The list of wait-time models in force."""
        return self.wait_models_file or _PACKAGE / "wait_times" / "models.toml"

    @property
    def postgres_directory(self) -> Path:
        """Where the embedded server lives, if it is used."""
        return self.home / "postgres"

    @property
    def mlflow_artifacts_url(self) -> str:
        """Where model files are kept, as a URL."""
        place = _place(self.mlflow_artifacts, self.home / "mlflow")
        return place if "://" in place else Path(place).as_uri()

    @property
    def lake_url(self) -> str:
        """Where the lake is: an absolute path, or a URL."""
        return _place(self.lake, self.home / "lake")

    @property
    def population_exchange_url(self) -> str:
        """Where a Spark job's files are: an absolute path, or a URL."""
        return _place(self.population_exchange, self.home / "population")

    def databases(self) -> Databases:
        """The addresses of the three databases, each with the driver that its user has.

        Starts the embedded server if no address of a warehouse is set, and so raises what
        `resources.embedded_postgres.ensure_running` raises.
        """
        if self.database_url is not None:
            base = self.database_url.get_secret_value()
        else:
            from resources.embedded_postgres import ensure_running

            base = with_database(ensure_running(self.postgres_directory), "medscore")
        dagster, mlflow = _secret(self.dagster_database_url), _secret(self.mlflow_database_url)
        return Databases.beside(base, dagster=dagster, mlflow=mlflow)


def _secret(url: SecretStr | None) -> str | None:
    return url.get_secret_value() if url is not None else None


def _place(given: str | None, default: Path) -> str:
    """Where files are: an absolute path, or a URL."""
    if given is not None and "://" in given:
        return given
    return str(default if given is None else PROJECT_ROOT / Path(given).expanduser())
