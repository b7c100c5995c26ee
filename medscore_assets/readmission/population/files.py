"""The report of one quarter as a folder of files, made whole or not at all.

Belongs here: what the report is given, the folder of a version, and its way onto the disk.
Does not belong here: what stands in the files (`medscore_assets/report/population/`) and Dagster.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from medscore_assets.readmission.policy import Policy
from medscore_assets.readmission.population import queries
from medscore_assets.readmission.population.publish import compared_with, quarter_lock
from medscore_assets.readmission.population.quarters import Quarter
from resources.artifacts import sha256
from resources.errors import PermanentError
from resources.registry import ModelRegistry
from resources.warehouse import Warehouse

if TYPE_CHECKING:
    import pandas as pd

    from medscore_assets.report.population import ModelSummary, PopulationReport, PreviousQuarter

MANIFEST = "manifest.json"
FOLDER = "population"
"""Under the folder of all reports."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """The files of one version of a quarter's report."""

    folder: Path
    header: Row
    """As in `population_reports`."""
    files: dict[str, str]
    """SHA-256 by file name, without the manifest's."""
    made: bool
    """Whether they were made now; otherwise they had been there, and are intact."""


def make_files(
    warehouse: Warehouse,
    registry: ModelRegistry,
    quarter: Quarter,
    policy: Policy,
    zone: ZoneInfo,
    reports_folder: Path,
) -> ReportFiles:
    """Write the files of a quarter's published cells, or find that they are there.

    The locks of the quarter and the one before are held all along, so that nobody changes the cells
    meanwhile. Raises `PermanentError` if the quarter has no summary, the policy or the quarter before has
    changed since, or the version's folder holds other files: what was handed out is never overwritten.
    """
    with warehouse.transaction() as connection:
        for locked in (quarter.previous, quarter):
            warehouse.lock(connection, quarter_lock(locked))
        header = require_header(warehouse, connection, quarter)
        folder = _folder(reports_folder, header)
        if folder.exists():
            return ReportFiles(folder, header, _intact(folder, header), made=False)
        report = _report(warehouse, connection, registry, quarter, header, policy, zone)
        return ReportFiles(folder, header, _write_whole(folder, report), made=True)


def require_header(warehouse: Warehouse, connection: sa.Connection | None, quarter: Quarter) -> Row:
    """What the quarter's cells were computed from. Raises `PermanentError` if there are none."""
    found = warehouse.read(queries.report(quarter), connection).to_pylist()
    if not found:
        raise PermanentError(
            f"there is no summary of {quarter}",
            where="population_reports",
            mend=f"Make it: medscore population report --quarter {quarter}",
        )
    return dict(found[0])


def published_cells(
    warehouse: Warehouse, quarter: Quarter, cube: str | None = None, connection: sa.Connection | None = None
) -> pd.DataFrame:
    """The cells as they may be shown: counts as Int64, measures as Float64, withheld figures NA."""
    import pandas as pd

    rows = warehouse.read(queries.published(quarter, cube), connection)
    nullable = {"int64": pd.Int64Dtype(), "double": pd.Float64Dtype()}
    cells = pd.DataFrame(
        {
            name: pd.array(rows[name].to_pylist(), dtype=nullable[str(rows[name].type)])
            if str(rows[name].type) in nullable
            else pd.Series(rows[name].to_pylist(), dtype=object)
            for name in rows.column_names
        }
    )
    cells["suppressed_measures"] = cells["suppressed_measures"].map(json.loads)
    return cells


def newest_quarter(warehouse: Warehouse) -> Quarter:
    """The latest quarter with a summary. Raises `PermanentError` if there is none."""
    found = warehouse.read(queries.newest_report()).to_pylist()
    if not found:
        raise PermanentError(
            "there is no summary of any quarter",
            where="population_reports",
            mend="Make one: medscore population report",
        )
    return Quarter.parse(found[0]["quarter"])


def made_files(warehouse: Warehouse, quarter: Quarter, reports_folder: Path) -> ReportFiles:
    """The files of a quarter's newest version. Raises `PermanentError` unless they are there, and whole."""
    header = require_header(warehouse, None, quarter)
    folder = _folder(reports_folder, header)
    return ReportFiles(folder, header, _intact(folder, header), made=False)


def three_findings(warehouse: Warehouse, quarter: Quarter) -> list[dict[str, str]]:
    """What stands on the report's title page: `title` and `text` of each."""
    from medscore_assets.report.population.cells import Cubes, checked
    from medscore_assets.report.population.findings import findings
    from medscore_assets.report.population.funnel import funnel

    cubes = Cubes.read(checked(published_cells(warehouse, quarter)))
    placed = funnel(cubes.hospitals, cubes.total.value("observed_to_expected"))
    found = findings(cubes.total, cubes.regions, placed, cubes.diagnoses, _names())
    return [{"title": each.title, "text": each.text} for each in found]


def _folder(reports_folder: Path, header: Row) -> Path:
    return reports_folder / FOLDER / str(header["quarter"]) / f"v{header['version']}"


def _report(
    warehouse: Warehouse,
    connection: sa.Connection,
    registry: ModelRegistry,
    quarter: Quarter,
    header: Row,
    policy: Policy,
    zone: ZoneInfo,
) -> PopulationReport:
    from medscore_assets.report.population import Header, PopulationReport

    if policy.hash != header["policy_hash"]:
        raise PermanentError(
            f"{quarter} was summarised under another policy than the one in force",
            where="population_reports.policy_hash",
            mend=f"Summarise it anew: medscore population report --quarter {quarter}",
        )
    told = {name: header[name] for name in ("quarter", "version", "rows", "input_fingerprint", "model_name")}
    told |= {name: header[name] for name in ("contract_hash", "policy_version", "policy_hash")}
    return PopulationReport(
        header=Header(
            **told,
            first_day=quarter.first_day,
            last_day=quarter.last_day,
            as_of=header["as_of"],
            model_version=str(header["model_version"]),
            disclaimer=policy.disclaimer,
            zone=zone.key,
            high_above=policy.tiers.high,
            very_high_above=policy.tiers.very_high,
        ),
        cells=published_cells(warehouse, quarter, connection=connection),
        exclusions=warehouse.read(queries.exclusions(quarter), connection).to_pandas(),
        model=_model(registry, header),
        previous=_previous(warehouse, connection, quarter, header),
        names=_names(),
    )


def _previous(
    warehouse: Warehouse, connection: sa.Connection, quarter: Quarter, header: Row
) -> PreviousQuarter | None:
    from medscore_assets.report.population import PreviousQuarter

    found = warehouse.read(queries.report(quarter.previous), connection).to_pylist()
    before = found[0] if found else None
    if not header["input_fingerprint"].endswith(compared_with(before)):
        raise PermanentError(
            f"the quarter before {quarter} has been reported anew since {quarter} was summarised",
            where="population_reports.input_fingerprint",
            mend=f"Summarise it anew: medscore population report --quarter {quarter}",
        )
    if before is None:
        return None
    return PreviousQuarter(
        quarter=before["quarter"],
        version=before["version"],
        model_version=str(before["model_version"]),
        policy_version=before["policy_version"],
        cells=published_cells(warehouse, quarter.previous, connection=connection),
    )


def _model(registry: ModelRegistry, header: Row) -> ModelSummary | None:
    """What the version's card says; None if it was never evaluated."""
    from medscore_assets.readmission.judging import EVALUATION
    from medscore_assets.report.files import CARD
    from medscore_assets.report.population import ModelSummary

    with tempfile.TemporaryDirectory(prefix="medscore-card-") as target:
        try:
            folder = registry.attached(
                header["model_name"], header["model_version"], EVALUATION, Path(target)
            )
        except PermanentError:
            return None
        return ModelSummary.from_card((folder / CARD).read_bytes())


def _names() -> dict[str, str]:
    """Identifiers as people read them, from the model card's texts."""
    from medscore_assets.readmission import judging
    from medscore_assets.report.model_card import load_texts

    return dict(load_texts(Path(judging.__file__).with_name("model_card.toml")).names)


def _write_whole(folder: Path, report: PopulationReport) -> dict[str, str]:
    """Write into a neighbour of the folder, bring it to the disk, and give it the folder's name."""
    from medscore_assets.report.population import write_report

    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_remains(folder)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made.chmod(0o755)
        written = write_report(made, report)
        for path in (*made.iterdir(), made):
            _sync(path)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    _sync(folder.parent)
    return {name: digest for name, digest in written.items() if name != MANIFEST}


def _remove_remains(folder: Path) -> None:
    """What killed runs left. Under the quarter's lock nobody is at work in them."""
    for remains in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(remains, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _intact(folder: Path, header: Row) -> dict[str, str]:
    """The files of a folder that is there. Raises `PermanentError` unless they are this report's, whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): _digest(entry) for name, entry in manifest["files"].items()}
        found = {p.name: sha256(p.read_bytes()) for p in folder.iterdir() if p.name != MANIFEST}
        ours = manifest["input_fingerprint"] == header["input_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        files, found, ours = {}, {"": ""}, False
    if files != found or not ours:
        raise PermanentError(
            "the folder of this version holds other files than this report's",
            where=str(folder),
            mend="Nothing is overwritten: move the folder away and make the report again.",
        )
    return files


def _digest(entry: Any) -> str:
    return str(entry["sha256"] if isinstance(entry, dict) else entry)
