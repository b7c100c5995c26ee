"""A job of two fits, to be found again by the processes of its steps.

Belongs here: what such a process imports. Does not belong here: anything of a test's own, above all what sets
up the environment of tests: a step's process has that of the test.
"""

from __future__ import annotations

import dagster as dg

from medscore_assets.definitions import default_resources
from medscore_assets.mobility.model_assets import EXECUTOR, fit_and_register
from medscore_assets.settings import Settings


def two_fits() -> dg.JobDefinition:
    """The training job's step twice, with its executor and the resources that the settings name."""

    @dg.job(executor_def=EXECUTOR)
    def fits() -> None:
        fit_and_register.alias("near")()
        fit_and_register.alias("far")()

    return dg.Definitions(jobs=[fits], resources=default_resources(Settings())).resolve_job_def("fits")
