"""Writes checkpoints as torch 1.4 did when its state dicts were pickled: what published files of that time are."""

import collections
import io
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
KINDS = {torch.float32: "FloatStorage", torch.int64: "LongStorage", torch.float64: "DoubleStorage"}


class Storage:
    """A tensor's numbers, which this file's picklers write as torch 1.4 wrote a storage."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Pickler(pickle.Pickler):
    """Writes tensors as `_rebuild_tensor_v2` of a storage; the storage itself is up to a subclass."""

    def __init__(self, stream: io.BytesIO, protocol: int, device: str) -> None:
        super().__init__(stream, protocol)
        self.device = device

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return self.storage(obj) if isinstance(obj, Storage) else NotImplemented
        whole = obj.contiguous()
        rest = (0, tuple(whole.shape), tuple(whole.stride()), False, collections.OrderedDict())
        return (torch._utils._rebuild_tensor_v2, (Storage(whole), *rest))

    def storage(self, storage: Storage) -> Any:
        return (torch.storage._load_from_bytes, (storage_file(storage, self.device),))


class StoragePickler(Pickler):
    """`torch.save`'s: storages are references, and their numbers follow."""

    def __init__(self, stream: io.BytesIO, protocol: int, device: str) -> None:
        super().__init__(stream, protocol, device)
        self.written: list[Storage] = []

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        self.written.append(obj)
        home = torch.cuda if self.device.startswith("cuda") else torch
        kind = getattr(home, KINDS[obj.tensor.dtype])
        return ("storage", kind, str(len(self.written)), self.device, obj.tensor.numel(), None)


def storage_file(obj: Any, device: str = "cpu") -> bytes:
    """What torch 1.4's `torch.save` makes of an object: a storage, or anything with tensors in it."""
    stream = io.BytesIO()
    for fact in (MAGIC, PROTOCOL, MACHINE):
        pickle.dump(fact, stream, 2)
    pickler = StoragePickler(stream, 2, device)
    pickler.dump(obj)
    pickle.dump([str(i + 1) for i in range(len(pickler.written))], stream, 2)
    for storage in pickler.written:
        stream.write(storage.tensor.numel().to_bytes(8, "little"))
        stream.write(storage.tensor.numpy().tobytes())
    return stream.getvalue()


def pickled(obj: Any, device: str = "cpu", protocol: int = 4) -> bytes:
    """What `pickle.dump` makes of an object with tensors in it under torch 1.4."""
    stream = io.BytesIO()
    Pickler(stream, protocol, device).dump(obj)
    return stream.getvalue()


def state_dict(tensors: Mapping[str, Tensor]) -> "collections.OrderedDict[str, Tensor]":
    """Tensors as `Module.state_dict` returns them: an OrderedDict with `_metadata`."""
    state = collections.OrderedDict(tensors)
    modules = sorted({"", *(key.rpartition(".")[0] for key in tensors)})
    state._metadata = collections.OrderedDict((name, {"version": 1}) for name in modules)  # type: ignore[attr-defined]
    return state
