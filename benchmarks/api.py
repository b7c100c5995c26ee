"""One patient's score over HTTP: ours, MLflow's server, and the source document's application.

    python -m benchmarks.api [--json PATH] [--seconds N] [--rounds N] [--libraries FOLDER]

One worker each, the same booster, the same patients, one keep-alive client on loopback that costs a few
microseconds a request (its CPU is reported). Servers are pinned to one core, each with one thread of
arithmetic; the client and PostgreSQL share another. Latency is measured with one connection, throughput
with sixteen; the servers are measured in turn, round by round, so that a drift of the machine meets all
alike.

Ours (`medscore serve`) knows its caller by an ES384 token, scores, explains exactly, and answers after score
and audit event are committed, with PostgreSQL's own durability. The goals are of a caller who keeps a token:
its signature is verified once in five minutes. Beside them stands the same with a token of its own for each
request, whose signature is verified each time (`ours_unseen_tokens`). Only the limit on requests a second is
raised; all other settings are the defaults. MLflow's (`mlflow models serve`, the registered version) is sent
the encoded row and answers an uncalibrated number; the document's (`document_api.py`) encodes with pandas and
explains with `shap`, which is not among our dependencies: name a folder where it is installed with
--libraries, or XGBoost's `pred_contribs` stands in for it. Neither checks a token nor stores anything. All
three must give the same risk, or nothing is reported.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import joblib
import numpy as np
import psutil
import typer

from benchmarks.harness import Report, console
from benchmarks.loopback import Driven, Server, ask, drive, free_port, request_bytes
from benchmarks.own_database import cpu_of
from benchmarks.site import PREDICT, Site, as_json, on_core, patients, train_demo
from medscore_assets.contracts.readmission import READMISSION
from medscore_assets.readmission.scoring import MODEL, MODEL_FILE
from serving import access

PATIENTS = 512
TOKENS = access._MOST_REMEMBERED + PATIENTS
"""So many in turn that the service has forgotten each one when it comes again."""
AT_ONCE = 16
STARTS = 3
SERVER_CORE, CLIENT_CORE = 0, 1

TIMES_FASTER = 4.0
P99_MS = 10.0
PER_SECOND = {"ours": 400.0, "ours_without_explanation": 1000.0}
READY_S = 5.0


@dataclass
class Contender:
    """One server as it is asked, and what was measured of it."""

    server: Server
    requests: list[bytes]
    alone: list[Driven] = field(default_factory=list)
    together: list[Driven] = field(default_factory=list)
    server_cpu: float = 0.0
    next_request: int = 0

    def warm_up(self) -> None:
        self._drive(AT_ONCE, 1.0)
        self._drive(1, 1.0)

    def measure(self, seconds: float) -> None:
        """One round."""
        before = self.server.cpu_seconds()
        self.alone.append(self._drive(1, seconds))
        self.together.append(self._drive(AT_ONCE, seconds))
        self.server_cpu += self.server.cpu_seconds() - before
        statuses = {status for d in (self.alone[-1], self.together[-1]) for status in d.statuses}
        if statuses != {200}:
            raise RuntimeError(f"answers other than 200: {statuses}, {self.together[-1].last_body[:300]!r}")

    def figures(self) -> dict[str, Any]:
        """Latency in milliseconds with one connection and with sixteen, CPU, memory."""
        runs = [*self.alone, *self.together]
        answers = sum(len(d.latencies) for d in runs)
        return {
            "one_connection_ms": _quantiles(self.alone),
            "sixteen_connections_ms": _quantiles(self.together),
            "requests_per_second": {
                "one_connection": round(statistics.median(d.per_second for d in self.alone)),
                "sixteen_connections": round(statistics.median(d.per_second for d in self.together)),
            },
            "server_cpu_ms_per_request": round(1e3 * self.server_cpu / answers, 3),
            "client_cpu_ms_per_request": round(1e3 * sum(d.client_cpu for d in runs) / answers, 3),
            "peak_memory_mb": round(self.server.peak_memory_mb()),
            "requests": answers,
        }

    def _drive(self, at_once: int, seconds: float) -> Driven:
        """From the request on that follows the last one."""
        begin = self.next_request
        driven = drive(self.server.port, self.requests[begin:] + self.requests[:begin], at_once, seconds)
        self.next_request = (begin + len(driven.latencies)) % len(self.requests)
        return driven

    def p50s(self) -> list[float]:
        """The median latency of each round, in milliseconds."""
        return [1e3 * statistics.median(d.latencies) for d in self.alone]


def main(
    json_path: Annotated[Path | None, typer.Option("--json")] = None,
    seconds: Annotated[float, typer.Option(help="Of each measure in a round.", min=0.5)] = 3.0,
    rounds: Annotated[int, typer.Option(min=3)] = 5,
    libraries: Annotated[
        Path | None, typer.Option(help="Where the document's `shap` is installed.", exists=True)
    ] = None,
) -> None:
    """Measures and reports; exits with 1 when a goal is missed."""
    if len(os.sched_getaffinity(0)) < 2:
        raise typer.BadParameter("server and client need a core each; this machine gives one")
    with tempfile.TemporaryDirectory(prefix="medscore-benchmark-") as folder, on_core(CLIENT_CORE):
        report = _measure(Path(folder), seconds, rounds, libraries)
    raise typer.Exit(report.finish(json_path))


def _measure(home: Path, seconds: float, rounds: int, libraries: Path | None) -> Report:
    console.print("training the model that all serve")
    site = Site.prepare(home)
    version = site.register(train_demo(seed=1))
    site.set_champion(version)
    report = Report(f"one patient over HTTP, {os.cpu_count()} cores: one for the server, one for the rest")
    starts = _starts(site)
    servers: list[Server] = []
    try:
        contenders = _contenders(site, version, libraries, servers)
        report.figures["same_risk_within"] = _require_same_risk(contenders, site, version)
        for contender in contenders.values():
            contender.warm_up()
        postmaster = psutil.Process(site.postmaster())
        postgres = cpu_of(postmaster)
        for number in range(rounds):
            console.print(f"round {number + 1} of {rounds}")
            for contender in contenders.values():
                contender.measure(seconds)
        postgres = cpu_of(postmaster) - postgres
        _report(report, contenders, starts, postgres)
        report.figures["document_explained_by"] = _explained_by(servers[-1])
    finally:
        for server in servers:
            server.stop()
        site.warehouse.close()
    return report


def _starts(site: Site) -> dict[str, list[float]]:
    """Seconds from the process's start until `/health/ready`: with the champion's files kept, and without."""
    cached: list[float] = []
    fresh: list[float] = []
    kept = site.settings.home / "models" / MODEL
    for number in range(2 * STARTS + 1):
        without = number % 2 == 1
        if without:
            shutil.rmtree(kept)
        server = site.start_api(core=SERVER_CORE)
        try:
            took = server.wait_ready("/health/ready")
        finally:
            server.stop()
        # The first start brings the imports from the disk.
        if number:
            (fresh if without else cached).append(round(took, 2))
    return {"champion_cached": cached, "champion_from_registry": fresh}


def _contenders(
    site: Site, version: int, libraries: Path | None, servers: list[Server]
) -> dict[str, Contender]:
    """Starts the three servers, adding each to `servers` at once, and says how each is asked."""
    people = patients(PATIENTS)
    api = site.start_api(core=SERVER_CORE)
    servers.append(api)
    api.wait_ready("/health/ready")
    mlflow = _start_mlflow(site, version)
    servers.append(mlflow)
    mlflow.wait_ready("/ping")
    document = _start_document(site, version, libraries)
    servers.append(document)
    document.wait_ready("/health")
    bearer = {"Authorization": f"Bearer {site.token()}"}
    named = [as_json({**p, "encounter_id": f"E-{n}", "patient_id": f"P-{n}"}) for n, p in enumerate(people)]
    return {
        "ours": Contender(api, [request_bytes(PREDICT, body, bearer) for body in named]),
        "ours_without_explanation": Contender(
            api, [request_bytes(f"{PREDICT}?explain=false", body, bearer) for body in named]
        ),
        "ours_unseen_tokens": Contender(api, _unseen(site, named)),
        "mlflow": Contender(mlflow, [request_bytes("/invocations", _encoded(p)) for p in people]),
        "document": Contender(document, [request_bytes("/predict", as_json(p)) for p in people]),
    }


def _unseen(site: Site, bodies: Sequence[bytes]) -> list[bytes]:
    """The same requests over and over, each with another token."""
    tokens = (site.token(str(number)) for number in range(TOKENS))
    return [
        request_bytes(PREDICT, body, {"Authorization": f"Bearer {token}"})
        for token, body in zip(tokens, itertools.cycle(bodies), strict=False)
    ]


def _start_mlflow(site: Site, version: int) -> Server:
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        *("models", "serve", "--model-uri", f"models:/{MODEL}/{version}"),
        *("--env-manager", "local", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)),
    ]
    environment = {
        "MLFLOW_TRACKING_URI": site.settings.databases().mlflow,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return Server.start(
        command, port, site.settings.home / "mlflow.log", environment=environment, core=SERVER_CORE
    )


def _start_document(site: Site, version: int, libraries: Path | None) -> Server:
    from xgboost import XGBClassifier

    classifier = XGBClassifier()
    classifier.load_model(site.registry.stored(MODEL, version).directory / MODEL_FILE)
    model_file = site.settings.home / "readmission_model.joblib"
    joblib.dump(classifier, model_file)
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.document_api", str(model_file), str(port)]
    return Server.start(
        command,
        port,
        site.settings.home / "document.log",
        environment={"PYTHONPATH": str(libraries)} if libraries else None,
        core=SERVER_CORE,
    )


def _encoded(patient: dict[str, Any]) -> bytes:
    row = READMISSION.encode_row(patient)[0].tolist()
    return as_json({"dataframe_split": {"columns": READMISSION.feature_names, "data": [row]}})


def _require_same_risk(contenders: dict[str, Contender], site: Site, version: int) -> float:
    """The largest difference between the three over a few patients, recalibrated alike."""
    recalibration = site.model(version).manifest.recalibration

    def calibrated(raw: float) -> float:
        margin = math.log(raw / (1 - raw))
        return 1 / (1 + math.exp(-recalibration.intercept - recalibration.slope * margin))

    largest = 0.0
    for number in range(20):
        answers = {}
        for name, contender in contenders.items():
            status, body = ask(contender.server.port, contender.requests[number])
            if status != 200:
                raise RuntimeError(f"{name} answers {status}: {body[:300]!r}")
            answers[name] = json.loads(body)
        risks = [
            answers["ours"]["readmission_probability"],
            answers["ours_without_explanation"]["readmission_probability"],
            answers["ours_unseen_tokens"]["readmission_probability"],
            calibrated(float(np.ravel(answers["mlflow"]["predictions"])[0])),
            calibrated(answers["document"]["readmission_probability"]),
        ]
        largest = max(largest, max(risks) - min(risks))
    if largest > 1e-6:
        raise RuntimeError(f"the servers do not serve the same model: risks differ by {largest:g}")
    return largest


def _report(
    report: Report, contenders: dict[str, Contender], starts: dict[str, list[float]], postgres: float
) -> None:
    figures = {name: contender.figures() for name, contender in contenders.items()}
    ours = contenders["ours"]
    stored = sum(figures[name]["requests"] for name in figures if name.startswith("ours"))
    report.figures |= figures | {
        "seconds_to_ready": starts,
        "postgresql_cpu_ms_per_stored_score": round(1e3 * postgres / stored, 3),
    }
    for name, other in (("MLflow's server", "mlflow"), ("the document's", "document")):
        ratios = [b / a for a, b in zip(ours.p50s(), contenders[other].p50s(), strict=True)]
        report.at_least(f"p50 of {name} / ours", statistics.median(ratios), TIMES_FASTER, "times")
    report.within("p99 of ours", figures["ours"]["one_connection_ms"]["p99"], 0, P99_MS, "ms")
    for name, least in PER_SECOND.items():
        reached = figures[name]["requests_per_second"]["sixteen_connections"]
        report.at_least(f"{name.replace('_', ' ')}, 16 connections", reached, least, "requests/s")
    for name, took in starts.items():
        report.within(f"start to ready, {name.replace('_', ' ')}", max(took), 0, READY_S, "s")


def _explained_by(document: Server) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{document.port}/health", timeout=5) as answer:
        return str(json.load(answer)["explained_by"])


def _quantiles(runs: Sequence[Driven]) -> dict[str, float]:
    pooled = np.concatenate([d.latencies for d in runs]) * 1e3
    named = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(pooled, q)), 3) for name, q in named.items()}


if __name__ == "__main__":
    typer.run(main)
