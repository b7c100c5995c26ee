"""The quarterly population report as files: `write_report` and what it is given."""

from medscore_assets.report.population.contents import (
    Header,
    ModelSummary,
    PopulationReport,
    PreviousQuarter,
)
from medscore_assets.report.population.files import write_report

__all__ = ["Header", "ModelSummary", "PopulationReport", "PreviousQuarter", "write_report"]
