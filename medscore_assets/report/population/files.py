"""The files of a quarter's population report, and the manifest that vouches for them.

Belongs here: writing them in a folder. Does not belong here: what stands in them, where the folder is.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC
from importlib.metadata import version
from pathlib import Path

from medscore_assets.report.population import cells as published
from medscore_assets.report.population import tables
from medscore_assets.report.population.contents import Header, PopulationReport
from medscore_assets.report.population.document import pdf
from medscore_assets.report.population.flow import flow

MANIFEST = "manifest.json"
FORMAT = "medscore-population-report/1"
_MAKERS = ("matplotlib", "pyarrow", "typst")


def write_report(folder: Path, report: PopulationReport) -> dict[str, str]:
    """Writes every file of the report in a folder, which is made if need be; the manifest last.

    Gives the SHA-256 of each file by its name, the manifest's too. The same report gives the same bytes, as
    long as the packages that the manifest names are the same. Raises `PermanentError` before anything is
    written where cells or flow cannot be printed.
    """
    contents = _contents(report)
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: hashlib.sha256(found).hexdigest() for name, found in sorted(contents.items())}
    for name, found in contents.items():
        (folder / name).write_bytes(found)
    manifest = _manifest(report, contents, digests)
    (folder / MANIFEST).write_bytes(manifest)
    return {**digests, MANIFEST: hashlib.sha256(manifest).hexdigest()}


def _contents(report: PopulationReport) -> dict[str, bytes]:
    cells = published.checked(report.cells)
    total = published.read(cells, published.TOTAL)[0]
    lines = flow(report.exclusions, report.header.rows, total, report.names)
    stem = f"population_{report.header.quarter}"
    return {
        **{tables.file_name(cube): tables.cube_csv(cells, cube) for cube in published.cubes(cells)},
        "columns.csv": tables.columns_csv(),
        "flow.csv": tables.flow_csv(lines),
        f"{stem}.parquet": tables.parquet(cells),
        f"{stem}.pdf": pdf(report, cells, lines),
    }


def _manifest(report: PopulationReport, contents: dict[str, bytes], digests: dict[str, str]) -> bytes:
    before = report.previous
    found = {
        "format": FORMAT,
        **_identity(report.header),
        "compared_with": None if before is None else {"quarter": before.quarter, "version": before.version},
        "made_with": {name: version(name) for name in _MAKERS},
        "files": {name: {"sha256": digest, "bytes": len(contents[name])} for name, digest in digests.items()},
    }
    return (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode()


def _identity(header: Header) -> dict[str, object]:
    return {
        "quarter": header.quarter,
        "version": header.version,
        "as_of": header.as_of.astimezone(UTC).isoformat(),
        "rows": header.rows,
        "input_fingerprint": header.input_fingerprint,
        "model_name": header.model_name,
        "model_version": header.model_version,
        "contract_hash": header.contract_hash,
        "policy_version": header.policy_version,
        "policy_hash": header.policy_hash,
        "disclaimer": header.disclaimer,
    }
