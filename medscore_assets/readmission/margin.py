"""The booster's margin for encoded rows, asked of XGBoost's C interface without its wrapper.

Belongs here: one call of `XGBoosterPredictFromDense`, and how many threads the library may start.
Does not belong here: what the margin means (`scoring.py`).

`Booster.inplace_predict` is this call too, but looks first for a dozen kinds of data frame: for one row five
times the cost of the trees. The numbers are the same ones, and a test holds that.

The call is given its matrix object. Without one XGBoost makes another at each call, and reads the control
group's share of CPU from the system's files for it: as long as the trees.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    call = _of_this_thread()
    found = call.margins
    failed = call.predict(
        booster.handle,
        b'{"data": [%d, true], "shape": [%d, %d], "typestr": "<f4", "version": 3}'
        % (matrix.__array_interface__["data"][0], *matrix.shape),
        _AS_MARGIN,
        call.matrix,
        *call.answer,
    )
    if failed:
        raise _failure()
    # XGBoost keeps the buffer for this thread's next call.
    if len(matrix) == 1:
        return np.array([found[0]], dtype=np.float32)
    return np.ctypeslib.as_array(found, (len(matrix),)).copy()


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Inside, what this thread asks of XGBoost is done by this thread, also where no `nthread` is heard.

    A small model is read in 2 ms by one thread; by as many as there are cores, which wait for one another
    busily, it takes up to five times as long.
    """
    library = _library()
    if not hasattr(library, "omp_set_num_threads"):
        # Built without OpenMP: there is one thread anyway.
        yield
        return
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(1)
    try:
        yield
    finally:
        library.omp_set_num_threads(before)


class _Call:
    """What calls need beside their data, made once: a matrix object, and where the answer is put."""

    def __init__(self) -> None:
        library = _library()
        self.predict = library.XGBoosterPredictFromDense
        self.margins = ctypes.POINTER(ctypes.c_float)()
        self.answer = (
            ctypes.byref(ctypes.POINTER(ctypes.c_uint64)()),
            ctypes.byref(ctypes.c_uint64()),
            ctypes.byref(self.margins),
        )
        self.matrix, self._free = ctypes.c_void_p(), library.XGDMatrixFree
        if library.XGProxyDMatrixCreate(ctypes.byref(self.matrix)):
            raise _failure()

    def __del__(self) -> None:
        self._free(self.matrix)


_of_threads = threading.local()


def _of_this_thread() -> _Call:
    found: _Call | None = getattr(_of_threads, "call", None)
    if found is None:
        found = _of_threads.call = _Call()
    return found


def _failure() -> RuntimeError:
    # After the reason comes the library's stack.
    return RuntimeError(_library().XGBGetLastError().decode().partition("\n")[0])


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
    library.XGDMatrixFree.argtypes = [ctypes.c_void_p]
    return library
