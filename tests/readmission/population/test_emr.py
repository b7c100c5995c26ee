"""A Spark job on Amazon EMR: requests that AWS would take, and messages that come back through S3.

AWS is not asked: requests are validated against its own description of the service, S3 is moto's, and a
cluster is an object that says it has ended.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
import dagster as dg
import pytest
from botocore.validate import validate_parameters
from moto import mock_aws

from medscore_assets.readmission.population.engines import SETTINGS
from medscore_assets.readmission.population.exchange import Task
from medscore_assets.spark.exchange import Exchange
from medscore_assets.spark.launchers import SparkOptions, launcher, load_options
from resources.errors import PermanentError

FILE = """
[conf]
"spark.executor.memory" = "8g"
[emr]
service = "{service}"
region = "us-east-1"
environment = "s3://bucket/environment.tar.gz"
[emr.request]
{request}
"""
REQUESTS = {
    "emr": """Name = "report"
ReleaseLabel = "emr-spark-8.0.0"
LogUri = "s3://bucket/logs/"
ServiceRole = "EMR"
JobFlowRole = "EC2"
[emr.request.Instances]
InstanceGroups = [{ InstanceRole = "MASTER", InstanceType = "m7i.xlarge", InstanceCount = 1 }]""",
    "emr-serverless": """applicationId = "00f"
executionRoleArn = "arn:aws:iam::123456789012:role/medscore"
clientToken = "token"
[emr.request.jobDriver.sparkSubmit]
sparkSubmitParameters = "--conf spark.executor.cores=4\"""",
}
OPERATIONS = {"emr": "RunJobFlow", "emr-serverless": "StartJobRun"}
HASH = "0" * 64
TASK = Task(
    address="s3://bucket/medscore",
    members="members/2026-Q3/one",
    export_sha256=HASH,
    run="runs/one",
    model_files=("manifest.json", "model.ubj"),
    manifest_sha256=HASH,
    policy_hash=HASH,
    packages={},
)


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Exchange]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield Exchange(TASK.address, tmp_path)


class Aws:
    """What the clients of both services ask of AWS, for a job that ends well at once."""

    meta = SimpleNamespace(region_name="us-east-1")

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def run_job_flow(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        return {"JobFlowId": "j-1"}

    def describe_cluster(self, **_: Any) -> dict[str, Any]:
        return {"Cluster": {"Id": "j-1", "LogUri": "s3://bucket/logs/", "Status": {"State": "TERMINATED"}}}

    def list_steps(self, **_: Any) -> dict[str, Any]:
        return {"Steps": [{"Id": "s-1"}]}

    def get_waiter(self, _: str) -> Any:
        return SimpleNamespace(wait=lambda **_: None)

    def start_job_run(self, **request: Any) -> dict[str, Any]:
        self.requests.append(request)
        return {"applicationId": "00f", "jobRunId": "1"}

    def get_job_run(self, **_: Any) -> dict[str, Any]:
        return {"jobRun": {"state": "SUCCESS", "applicationId": "00f", "jobRunId": "1"}}

    def get_application(self, **_: Any) -> dict[str, Any]:
        return {"application": {"type": "Spark"}}


@pytest.mark.parametrize("service", ["emr", "emr-serverless"])
def test_a_job_on_emr_is_asked_for_as_aws_takes_it_and_its_messages_come_back(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    file = tmp_path / "spark.toml"
    file.write_text(FILE.format(service=service, request=REQUESTS[service]))
    found = launcher("emr", load_options(file, SETTINGS), tmp_path, SETTINGS)
    found.require_ready(exchange)
    told = [("opened", {"extras": {}}), ("report_custom_message", {"payload": {"rows": 7}}), ("closed", {})]
    lines = [
        json.dumps({"__dagster_pipes_version": "0.1", "method": m, "params": params}) for m, params in told
    ]
    exchange.put("runs/one/messages/1.json", "\n".join(lines).encode())
    aws, client = Aws(), boto3.client
    monkeypatch.setattr(boto3, "client", lambda name, **o: aws if name == service else client(name, **o))
    given: list[Any] = []

    @dg.asset
    def on_emr(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        given.extend(found.run(context, exchange, TASK).get_custom_messages())
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([on_emr], instance=instance).success
    assert given == [{"rows": 7}]
    (request,) = aws.requests
    described = botocore.session.get_session().get_service_model(service)
    validate_parameters(request, described.operation_model(OPERATIONS[service]).input_shape)
    sent = json.dumps(request)
    assert "spark.archives=s3://bucket/environment.tar.gz#environment" in sent
    assert "spark.executor.memory=8g" in sent
    assert "s3://bucket/medscore/runs/one/spark_job.py" in sent
    assert "DAGSTER_PIPES_CONTEXT" in sent
    if service == "emr":
        assert request["Instances"]["KeepJobFlowAliveWhenNoSteps"] is False
        assert found.log(TASK) == "s3://bucket/logs/"
    else:
        assert "spark.executor.cores=4 --conf" in sent


def test_files_on_s3_are_put_read_and_found(exchange: Exchange) -> None:
    exchange.put("runs/one/sums", b"7")
    assert exchange.read("runs/one/sums") == b"7"
    assert (exchange.has("runs/one/sums"), exchange.has("runs/one/error.json")) == (True, False)
    assert (exchange.url("x"), exchange.local("x")) == ("s3://bucket/medscore/x", None)
    with pytest.raises(PermanentError, match="not there"):
        exchange.read("runs/one/error.json")


def test_an_engine_without_options_or_out_of_reach_is_refused_before_any_export(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="the engine emr has no options"):
        launcher("emr", SparkOptions(), tmp_path, SETTINGS)
    file = tmp_path / "spark.toml"
    file.write_text(FILE.format(service="emr", request=""))
    here = Exchange(str(tmp_path), tmp_path)
    with pytest.raises(PermanentError, match=r"MEDSCORE_POPULATION_EXCHANGE.*s3://bucket/prefix"):
        launcher("emr", load_options(file, SETTINGS), tmp_path, SETTINGS).require_ready(here)
    file.write_text('masters = "local"\n')
    with pytest.raises(PermanentError, match="not valid: masters"):
        load_options(file, SETTINGS)
