"""What Dagster shows of an evaluation: measures with intervals, every rule of the gate, plots, the report.

Belongs here: metadata that is the same for all families. Does not belong here: anything measured or judged.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from medscore_assets.monitoring.assessment import Assessment
from medscore_assets.monitoring.promotion import Verdict

PLOT_WIDTH = 560
"""Pixels of a plot in Dagster; the report has it in full."""

COLOURS = 48

SCALARS = ("auroc", "auprc", "brier", "calibration_slope", "calibration_intercept", "eavg")
"""Measures that Dagster draws over time."""


def evaluation_metadata(
    assessment: Assessment, verdict: Verdict, files: Sequence[Path], address: str
) -> dict[str, Any]:
    """The metadata of an evaluation. `files` are the report's, `address` is its page in MLflow's UI."""
    measures = assessment.performance[assessment.model].measures
    page = next((file for file in files if file.suffix == ".html"), None)
    estimates = {name: measures[name].estimate for name in SCALARS if name in measures}
    return {
        "passes_the_gate": verdict.promote,
        "reasons": list(verdict.reasons),
        "discharges": assessment.n,
        "patients": assessment.patients,
        "events": assessment.events,
        **{name: float(value) for name, value in estimates.items() if value is not None},
        "measures": _measures(assessment),
        "rules": _rules(verdict),
        **({"report": dg.MetadataValue.path(str(page))} if page else {}),
        "report_in_mlflow": dg.MetadataValue.url(address),
        "plots": dg.MetadataValue.md(
            "\n\n".join(map(_picture, sorted(f for f in files if f.suffix == ".png")))
        ),
    }


def _measures(assessment: Assessment) -> dg.TableMetadataValue:
    names = ("model", "measure", "estimate", "lower", "upper")
    records = [
        dg.TableRecord(
            dict(zip(names, (model, name, *map(_rounded, (of.estimate, of.lower, of.upper))), strict=True))
        )
        for model, performance in assessment.performance.items()
        for name, of in performance.measures.items()
    ]
    return dg.TableMetadataValue(records=records, schema=_schema(names))


def _rules(verdict: Verdict) -> dg.TableMetadataValue:
    names = ("passed", "rule")
    records = [dg.TableRecord({"passed": c.passed, "rule": c.sentence}) for c in verdict.checked]
    return dg.TableMetadataValue(records=records, schema=_schema(names))


def _schema(names: Sequence[str]) -> dg.TableSchema:
    types = {"estimate": "float", "lower": "float", "upper": "float", "passed": "bool"}
    return dg.TableSchema([dg.TableColumn(name, types.get(name, "string")) for name in names])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _picture(file: Path) -> str:
    """A plot in Markdown, in few pixels and colours: Dagster keeps its metadata in rows of its database."""
    from PIL import Image

    with Image.open(file) as plot:
        height = round(plot.height * PLOT_WIDTH / plot.width)
        small = plot.convert("RGB").resize((PLOT_WIDTH, height), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    small.quantize(COLOURS).save(packed, "PNG", optimize=True)
    return f"![{file.stem}](data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()})"
