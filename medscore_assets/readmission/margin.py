"""The booster's margin for encoded rows, asked of XGBoost's C interface without its wrapper.

Belongs here: one call of `XGBoosterPredictFromDense`. Does not belong here: what the margin means
(`scoring.py`).

`Booster.inplace_predict` is this call too, but looks first for a dozen kinds of data frame: for one row five
times the cost of the trees. The numbers are the same ones, and a test holds that.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import xgboost as xgb

    from medscore_assets.contracts.contract import Matrix

_AS_MARGIN = (
    b'{"type": 1, "training": false, "iteration_begin": 0, "iteration_end": 0, "missing": NaN, '
    b'"strict_shape": false, "cache_id": 0}'
)


def margins(booster: xgb.Booster, matrix: Matrix) -> npt.NDArray[np.float32]:
    """The margins, float32 (n,), of finite float32 (n, features) in one piece (C order).

    Safe from several threads at once, like `inplace_predict`. Raises `RuntimeError` with XGBoost's reason.
    """
    if not len(matrix):
        return np.empty(0, dtype=np.float32)
    library = _library()
    shape = ctypes.POINTER(ctypes.c_uint64)()
    dimensions = ctypes.c_uint64()
    found = ctypes.POINTER(ctypes.c_float)()
    failed = library.XGBoosterPredictFromDense(
        booster.handle,
        b'{"data": [%d, true], "shape": [%d, %d], "typestr": "<f4", "version": 3}'
        % (matrix.ctypes.data, *matrix.shape),
        _AS_MARGIN,
        None,
        ctypes.byref(shape),
        ctypes.byref(dimensions),
        ctypes.byref(found),
    )
    if failed:
        # After the reason comes the library's stack.
        raise RuntimeError(library.XGBGetLastError().decode().partition("\n")[0])
    # XGBoost keeps the buffer for this thread's next call.
    return np.ctypeslib.as_array(found, (len(matrix),)).copy()


@functools.cache
def _library() -> ctypes.CDLL:
    from xgboost.libpath import find_lib_path

    # XGBoost has loaded it: this is the same one.
    library = ctypes.CDLL(find_lib_path()[0])
    library.XGBGetLastError.restype = ctypes.c_char_p
    library.XGBoosterPredictFromDense.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.POINTER(ctypes.c_uint64)),
        ctypes.POINTER(ctypes.c_uint64),
        ctypes.POINTER(ctypes.POINTER(ctypes.c_float)),
    ]
    return library
