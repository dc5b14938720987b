"""Reads pickles of numbers, strings, plain containers and numeric numpy arrays, and builds nothing else.

Not even numpy's own unpickling code runs (unpickler.py): a hostile dtype or array state cannot reach it. The stand-ins
keep the raw bytes and check them against shape and dtype.
"""

import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stochseg.data.reading import check_regular
from stochseg.data.unpickler import TEXT_AS_BYTES, StandIn, refuse, unpickle
from stochseg.errors import InputError

_NUMERIC = re.compile(r"[<>|=]?[biufc]\d{1,2}")
_MAX_DIMENSIONS = 8


class PickledArray:
    """An array out of a pickle; `np.asarray` gives the numpy array."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array: NDArray[Any] = np.zeros(0, np.int8)

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), tuple() as shape, PickledDtype() as dtype, int() as fortran, (bytes() | str()) as raw):
                # Python 2 wrote byte strings, which come here as latin-1 text.
                data = raw.encode("latin-1") if isinstance(raw, str) else raw
                self._array = _from_bytes(data, dtype, shape, "F" if fortran else "C")
            case _:
                refuse("an array that is not plain numbers")

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self._array if dtype is None else self._array.astype(dtype)


class PickledDtype:
    """A numeric dtype out of a pickle."""

    __slots__ = ("_swapped", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._swapped = False

    def __setstate__(self, state: Any) -> None:
        match state:
            case (int(), ("<" | ">" | "|" | "=") as order, None, None, None, -1, -1, int()):
                self._swapped = order == ">"
            case _:
                refuse("a dtype that is not a plain number")

    def plain(self) -> np.dtype[Any]:
        return np.dtype(self._text).newbyteorder(">") if self._swapped else np.dtype(self._text)


def load_numeric_pickle(file: Path) -> Any:
    """The object in a pickle file; arrays in it are `PickledArray`, to be read with `np.asarray`.

    Raises InputError for a file that is no pickle, is cut short, or holds anything but numbers, strings, lists, tuples,
    dicts and numeric numpy arrays. Nothing of the file is executed in any case.
    """
    try:
        check_regular(file)
        with file.open("rb") as stream:
            return unpickle(stream, _ALLOWED)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: {error}; only pickles of plain numpy arrays are read") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise InputError(f"{file}: does not fit into memory, or is damaged") from error
    except Exception as error:  # a damaged pickle fails in many ways (EOFError, KeyError, TypeError, ...)
        detail = str(error) or type(error).__name__
        raise InputError(f"{file}: damaged, or not a pickle ({detail}); copy or download it again") from error


def _dtype(text: Any, *flags: Any) -> PickledDtype:
    if not isinstance(text, str) or not _NUMERIC.fullmatch(text):
        refuse(f"the dtype {str(text)[:40]!r}")
    return PickledDtype(text)


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> PickledArray:
    # numpy always writes an empty array here and gives its content after.
    if subtype is not _ALLOWED["numpy", "ndarray"]:
        refuse("an array of another type")
    return PickledArray()


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    if not isinstance(buffer, bytes | bytearray) or not isinstance(dtype, PickledDtype) or order not in ("C", "F"):
        refuse("an array that is not plain numbers")
    array = PickledArray()
    array._array = _from_bytes(bytes(buffer), dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes) or not isinstance(dtype, PickledDtype):
        refuse("a scalar that is not a plain number")
    return _from_bytes(data, dtype, (), "C")[()]


def _from_bytes(data: bytes, dtype: PickledDtype, shape: Any, order: Any) -> NDArray[Any]:
    plain = dtype.plain()
    if not (
        isinstance(shape, tuple)
        and len(shape) <= _MAX_DIMENSIONS
        and all(type(n) is int and n >= 0 for n in shape)
        and math.prod(shape) * plain.itemsize == len(data)
    ):
        refuse("an array whose bytes do not match its shape")
    return np.frombuffer(data, plain).reshape(shape, order=order)


_ALLOWED: dict[tuple[str, str], StandIn] = {
    ("numpy", "ndarray"): StandIn(lambda *_: refuse("an array made by hand")),
    ("numpy", "dtype"): StandIn(_dtype),
    ("numpy.core.multiarray", "_reconstruct"): StandIn(_reconstruct),
    ("numpy.core.multiarray", "scalar"): StandIn(_scalar),
    ("numpy.core.numeric", "_frombuffer"): StandIn(_from_buffer),
    ("_codecs", "encode"): TEXT_AS_BYTES,
}
