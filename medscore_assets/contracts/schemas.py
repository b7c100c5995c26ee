"""The forms of a contract that other tools want: pandera, pydantic, MLflow.

Belongs here: one function per tool, each deriving everything from the fields it is given, so that no
name, bound or category is written twice. Does not belong here: SQL columns (`tables.py`) and Dagster's
column schema (`catalog.py`); they need libraries that the contracts do not.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, create_model
from pydantic import Field as Limits

from medscore_assets.contracts.contract import Contract
from medscore_assets.contracts.fields import Category, Feature, Flag, Whole
from resources.errors import ContractViolation

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature
    from pandera.pandas import Check, Column, DataFrameSchema


@functools.cache
def pandera_schema(contract: Contract, *, encoded: bool = False) -> DataFrameSchema:
    """The features as a pandera schema of a pandas frame.

    Raw: int64, text and bool columns without a missing value, by name, further columns allowed. This is
    what a sound Arrow table of the contract becomes in pandas; a frame that passes also encodes.
    Encoded: exactly the float32 columns of the matrix, in the contract's order, every code possible.
    `require_frame` validates without repeating values; pandera's own errors quote them.
    """
    import pandera.pandas as pandera

    column = _encoded_column if encoded else _raw_column
    return pandera.DataFrameSchema(
        {feature.name: column(feature) for feature in contract.features},
        name=f"{contract.name}_encoded" if encoded else contract.name,
        strict=encoded,
        ordered=encoded,
        unique_column_names=True,
        description=f"Contract {contract.hash}",
    )


def _raw_column(feature: Feature) -> Column:
    import pandas as pd
    from pandera.pandas import Check, Column

    dtype: str | None
    match feature:
        case Whole():
            dtype, checks = "int64", [_bounds(feature)]
        case Category():
            # pandas 3 has a text type of its own; frames made of Python objects hold the same texts.
            texts = Check(pd.api.types.is_string_dtype, name="is_text", error="is_text")
            dtype, checks = None, [texts, Check.isin(feature.categories, error="is_known_category")]
        case Flag():
            dtype, checks = "bool", []
    return Column(dtype, checks=checks, nullable=False, description=feature.description)


def _bounds(feature: Whole) -> Check:
    from pandera.pandas import Check

    return Check.in_range(feature.minimum, feature.maximum)


def _encoded_column(feature: Feature) -> Column:
    from pandera.pandas import Check, Column

    match feature:
        case Whole():
            whole = Check(lambda codes: codes == np.floor(codes), name="is_whole", error="is_whole")
            checks = [_bounds(feature), whole]
        case Category():
            checks = [Check.isin(range(len(feature.categories)), error="is_known_code")]
        case Flag():
            checks = [Check.isin((0, 1), error="is_known_code")]
    return Column("float32", checks=checks, nullable=False, description=feature.description)


def require_frame(contract: Contract, frame: pd.DataFrame, *, where: str, encoded: bool = False) -> None:
    """Validates a frame by `pandera_schema`; raises `ContractViolation` with columns, checks and counts.

    pandera's error quotes the values that failed, so it is neither shown nor chained.
    """
    from pandera.errors import SchemaErrors

    try:
        pandera_schema(contract, encoded=encoded).validate(frame, lazy=True)
        return
    except SchemaErrors as errors:
        cases = errors.failure_cases
    broken = Counter(
        f"{_named(contract, case.column, case.failure_case)}: {case.check}" for case in cases.itertuples()
    )
    counts = ", ".join(f"{what} x{n}" for what, n in sorted(broken.items()))
    raise ContractViolation(
        f"the frame breaks the schema of {contract.name}: {counts}",
        where=where,
        mend="Correct the source or quarantine these rows before this step.",
    )


def _named(contract: Contract, column: object, failure: object) -> str:
    """The contract's name of what failed. A fault of the frame has the column in `failure`."""
    return next((str(name) for name in (column, failure) if name in contract.feature_names), "frame")


@functools.cache
def request_model(contract: Contract) -> type[BaseModel]:
    """The features of one patient as a strict pydantic model: a JSON body in, nothing coerced.

    Accepts a mapping exactly when `Contract.encode_row` does and no key is foreign to the features.
    `str()` of its `ValidationError` hides the input; whoever serialises `errors()` has to pass
    `include_input=False, include_context=False` as well.
    """
    fields: dict[str, Any] = {feature.name: (_request_type(feature), ...) for feature in contract.features}
    return create_model(
        f"{contract.name.title().replace('_', '')}Request",
        __config__=ConfigDict(
            strict=True,
            extra="forbid",
            frozen=True,
            allow_inf_nan=False,
            hide_input_in_errors=True,
            json_schema_extra={"x-contract-hash": contract.hash},
        ),
        __doc__=f"The {len(contract.features)} features of the contract {contract.name}, all required.",
        **fields,
    )


def _request_type(feature: Feature) -> Any:
    match feature:
        case Whole():
            limits = Limits(
                ge=feature.minimum,
                le=feature.maximum,
                description=feature.description,
                json_schema_extra={"x-unit": feature.unit},
            )
            return Annotated[int, limits]
        case Category():
            return Annotated[Literal[feature.categories], Limits(description=feature.description)]
        case Flag():
            return Annotated[bool, Limits(description=feature.description)]


def mlflow_signature(contract: Contract) -> ModelSignature:
    """The signature of a registered booster: encoded columns by name and order in, one float32 a row out.

    Inputs are `double`: MLflow then takes float32 and float64 frames alike, and every code is exact in
    both. Raw text is refused, because the booster eats codes.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([ColSpec("double", name) for name in contract.feature_names]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1,))]),
    )
