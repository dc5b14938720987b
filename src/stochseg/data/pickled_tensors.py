"""Reads checkpoints of tensors that other programs pickled, and runs nothing of them.

Three kinds: a plain pickle of tensors, in which every storage is a whole file of its own (what `pickle.dump` makes of a
state dict); `torch.save` as it was up to version 1.5, five pickles and the raw numbers after them; and the zip file
that it writes since. In all of them the pickles go through `unpickle`, which knows no name but those listed here, and
the numbers are cut out of the bytes by our own hand: `torch.storage._load_from_bytes`, which would run what it is given
as a pickle again, is never called. Tensors come onto the CPU whatever device they were saved from.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.data.reading import check_regular
from stochseg.data.unpickler import TEXT_AS_BYTES, Names, StandIn, refuse, unpickle
from stochseg.errors import InputError

LARGEST = 4 * 2**30
"""Bytes of a file that is looked into."""
MOST_MEMBERS = 10_000
"""Files within a zip file."""
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_NUMBERS = {
    "Float": "<f4",
    "Double": "<f8",
    "Half": "<f2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "<i1",
    "Byte": "<u1",
    "Bool": "?",
}


def read_state_dicts(file: Path) -> dict[str, dict[str, Tensor] | None]:
    """The state dicts in a checkpoint file, by their names in it; None for an entry that is something else.

    Raises InputError for a file that is no such checkpoint, is damaged, or asks for anything but plain data. Tensors are
    on the CPU; two may share memory, and strides are as they were saved.
    """
    try:
        check_regular(file)
        if (size := file.stat().st_size) > LARGEST:
            raise InputError(f"{file}: {size:,} bytes; only checkpoints up to {LARGEST:,} are read")
        data = file.read_bytes()
        found = _from_zip(data) if data.startswith(b"PK\x03\x04") else _from_stream(data)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise InputError(f"{file}: holds no state dicts by name, but a {type(found).__name__.strip('_').lower()}")
        return {name: _state_dict(entry) for name, entry in found.items()}
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: {error}; only checkpoints of plain tensors are read") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise InputError(f"{file}: does not fit into memory, or is damaged") from error
    except Exception as error:  # a damaged pickle fails in many ways (EOFError, KeyError, TypeError, ...)
        detail = str(error) or type(error).__name__
        raise InputError(f"{file}: damaged, or no checkpoint ({detail}); copy or download it again") from error


class _Dict(dict[Any, Any]):
    """An OrderedDict out of a pickle, whose attributes (`_metadata` of a state dict) are dropped."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            refuse("a dict with a strange state")


class _StorageType:
    """What `torch.FloatStorage` and its like stand for."""

    def __init__(self, kind: str) -> None:
        self.numbers = np.dtype(_NUMBERS[kind])

    def __setstate__(self, state: Any) -> None:
        refuse("a change to a name")


class _Storage:
    """A row of numbers, which may follow later in the file."""

    def __init__(self, numbers: np.dtype[Any], count: int) -> None:
        self.numbers, self.count = numbers, count
        self.values: NDArray[Any] | None = None
        self._memory: Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        refuse("a change to a storage")

    def fill(self, data: bytes | memoryview) -> None:
        if len(data) != self.count * self.numbers.itemsize:
            refuse(f"a storage of {self.count} numbers with {len(data)} bytes")
        self.values = np.frombuffer(data, self.numbers)

    def memory(self) -> Tensor:
        """The numbers as a tensor, the same one at each call: tensors that shared memory share it again."""
        if self.values is None:
            refuse("a storage that is not in the file")
        if self._memory is None:
            self._memory = torch.from_numpy(self.values.copy())
        return self._memory


class _Tensor:
    """A tensor whose storage may not be there yet."""

    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def __setstate__(self, state: Any) -> None:
        refuse("a change to a tensor")

    def tensor(self) -> Tensor:
        return self.storage.memory().as_strided(self.size, self.stride, self.offset)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *flags: Any) -> _Tensor:
    """What `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2` stand for; flags: requires_grad and empty hooks."""
    whole = (
        isinstance(storage, _Storage)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
        and len(size) == len(stride) <= 8
        and all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    )
    if not whole:
        refuse("a tensor that is not plain numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if math.prod(size) else offset - 1
    if last >= storage.count or math.prod(size) > storage.count:
        refuse(f"a tensor of {list(size)} out of a storage of {storage.count} numbers")
    return _Tensor(storage, offset, size, stride)


def _from_bytes(data: Any) -> _Storage:
    """What `torch.storage._load_from_bytes` stands for: one storage as a file of the old kind."""
    if not isinstance(data, bytes):
        refuse("a storage that is not bytes")
    found = _old_file(io.BytesIO(data), _NAMES)
    if not isinstance(found, _Storage):
        refuse("something else than a storage in the bytes of a tensor")
    return found


_NAMES: Names = {
    ("collections", "OrderedDict"): StandIn(lambda: _Dict()),
    ("torch._utils", "_rebuild_tensor"): StandIn(_rebuild),
    ("torch._utils", "_rebuild_tensor_v2"): StandIn(_rebuild),
    **{(module, f"{kind}Storage"): _StorageType(kind) for kind in _NUMBERS for module in ("torch", "torch.cuda")},
}
"""Names that an ordinary checkpoint holds."""

_NAMES_WITH_BYTES = {
    **_NAMES,
    ("_codecs", "encode"): TEXT_AS_BYTES,
    ("torch.storage", "_load_from_bytes"): StandIn(_from_bytes),
}
"""The same for the outermost pickle: within the bytes of a storage there are no further ones."""


def _from_stream(data: bytes) -> Any:
    """The object of a plain pickle, or of `torch.save`'s old format."""
    stream = io.BytesIO(data)
    first = unpickle(stream, _NAMES_WITH_BYTES)
    return _old_file(io.BytesIO(data), _NAMES) if first == _MAGIC else first


def _old_file(stream: io.BytesIO, names: Names) -> Any:
    """magic, protocol, facts of the machine, the object, the keys of its storages: five pickles; then their numbers."""
    if unpickle(stream, {}) != _MAGIC or unpickle(stream, {}) != _PROTOCOL:
        refuse("a storage in a format that is not known")
    machine = unpickle(stream, {})
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        refuse("numbers of a machine with another byte order")
    storages: dict[str, _Storage] = {}
    found = unpickle(stream, names, _references(storages))
    for key in unpickle(stream, {}):
        if key not in storages:
            refuse("numbers that no tensor uses")
        storage = storages[key]
        if int.from_bytes(stream.read(8), "little", signed=True) != storage.count:
            refuse("a storage of another length than its tensors have")
        with stream.getbuffer() as whole:  # a view, not a copy; a cut file gives fewer bytes, which `fill` refuses
            start = stream.tell()
            storage.fill(bytes(whole[start : start + storage.count * storage.numbers.itemsize]))
        stream.seek(storage.count * storage.numbers.itemsize, io.SEEK_CUR)
    return found


def _from_zip(data: bytes) -> Any:
    """The object of `torch.save`'s zip file: ROOT/data.pkl, and ROOT/data/KEY for each storage. Nothing is unpacked."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            refuse(f"{len(members):,} files within it")
        packed = [
            m.filename for m in members if m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size
        ]
        if packed or sum(m.file_size for m in members) > len(data):
            refuse("compressed files, which torch does not write")
        pickles = [m.filename for m in members if m.filename.count("/") == 1 and m.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip file that torch.save did not write")
        root = pickles[0].partition("/")[0]
        names = set(archive.namelist())
        if f"{root}/byteorder" in names and archive.read(f"{root}/byteorder") != b"little":
            refuse("numbers of a machine with another byte order")
        storages: dict[str, _Storage] = {}
        found = unpickle(io.BytesIO(archive.read(pickles[0])), _NAMES, _references(storages))
        for key, storage in storages.items():
            storage.fill(archive.read(f"{root}/data/{key}"))
        return found


def _references(storages: dict[str, _Storage]) -> Callable[[Any], _Storage]:
    """What a persistent reference of `torch.save` stands for: a storage, gathered in `storages` by its key."""

    def referred(pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageType() as kind, str() as key, str(), int() as count) | (
                "storage",
                _StorageType() as kind,
                str() as key,
                str(),
                int() as count,
                None,
            ) if count >= 0:
                known = storages.setdefault(key, _Storage(kind.numbers, count))
                if (known.numbers, known.count) != (kind.numbers, count):
                    refuse("one storage in two ways")
                return known
        refuse("a reference that is no storage")

    return referred


def _state_dict(entry: Any) -> dict[str, Tensor] | None:
    """The entry with its tensors made, now that their numbers are there."""
    if not isinstance(entry, dict):
        return None
    if not all(isinstance(key, str) and isinstance(value, _Tensor) for key, value in entry.items()):
        return None
    return {key: value.tensor() for key, value in entry.items()}
