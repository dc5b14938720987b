"""Checkpoints of tensors come back whole, in every format; everything else is refused before it can do anything."""

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stochseg.data import pickled_tensors
from stochseg.data.pickled_tensors import read_state_dicts
from stochseg.errors import InputError

from . import old_torch
from .test_restricted_pickle import Calls, hostile


def states() -> dict[str, "collections.OrderedDict[str, Tensor]"]:
    g = torch.Generator().manual_seed(0)
    return {
        "generator": old_torch.state_dict(
            {
                "a.weight": torch.randn(3, 2, 2, generator=g),
                "a.count": torch.tensor(7),
                "b": torch.randn(5, generator=g),
            }
        ),
        "prior": old_torch.state_dict({"c": torch.arange(6).double().reshape(2, 3), "empty": torch.zeros(0, 4)}),
    }


def torch_saved(obj: Any, new: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(obj, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


FORMATS: dict[str, Callable[[Any], bytes]] = {
    "pickle of torch 1.4": old_torch.pickled,
    "pickle of torch 1.4 on a GPU": lambda obj: old_torch.pickled(obj, "cuda:0"),
    "pickle of torch 1.4, protocol 2": lambda obj: old_torch.pickled(obj, "cuda:0", protocol=2),
    "torch.save of torch 1.4 on a GPU": lambda obj: old_torch.storage_file(obj, "cuda:0"),
    "pickle of this torch": lambda obj: pickle.dumps(obj, protocol=-1),
    "torch.save of this torch, old": lambda obj: torch_saved(obj, new=False),
    "torch.save of this torch, zip": lambda obj: torch_saved(obj, new=True),
}


def save(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "model.pickle"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("name", FORMATS)
def test_state_dicts_come_back_whole(tmp_path: Path, name: str) -> None:
    found = read_state_dicts(save(tmp_path, FORMATS[name](states())))
    assert list(found) == ["generator", "prior"]
    for part, wanted in states().items():
        entry = found[part]
        assert entry is not None
        assert list(entry) == list(wanted)
        for key, tensor in wanted.items():
            assert entry[key].dtype == tensor.dtype
            assert torch.equal(entry[key], tensor)
            assert entry[key].device.type == "cpu"


def test_the_made_file_is_what_torch_reads() -> None:
    found = pickle.loads(old_torch.pickled(states()))
    assert all(torch.equal(found[part][key], t) for part, entry in states().items() for key, t in entry.items())
    assert found["prior"]._metadata == states()["prior"]._metadata  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            pickle.loads(old_torch.pickled(states(), "cuda:0"))


@pytest.mark.parametrize("new", [False, True])
def test_views_and_shared_memory(tmp_path: Path, new: bool) -> None:
    whole = torch.arange(24.0)
    state = {"t": whole.reshape(4, 6).t()[1:4, ::2], "part": whole[5:9], "conv": torch.randn(2, 3, 2, 2)}
    state["channels_last"] = state["conv"].to(memory_format=torch.channels_last)
    found = read_state_dicts(save(tmp_path, torch_saved({"net": state}, new)))["net"]
    assert found is not None
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
    assert found["t"].untyped_storage().data_ptr() == found["part"].untyped_storage().data_ptr()


def test_an_entry_that_is_no_state_dict_is_none(tmp_path: Path) -> None:
    found = read_state_dicts(save(tmp_path, old_torch.pickled({"discriminator": None, "epoch": 7, "net": {"a": 1}})))
    assert found == {"discriminator": None, "epoch": None, "net": None}
    with pytest.raises(InputError, match="holds no state dicts by name, but a list"):
        read_state_dicts(save(tmp_path, pickle.dumps([1, 2])))
    with pytest.raises(InputError, match="holds no state dicts by name"):
        read_state_dicts(save(tmp_path, pickle.dumps({1: 2})))


HOSTILE = [name for name in hostile(Path("mark")) if name != "a class"]  # that one is an OrderedDict, which is allowed


@pytest.mark.parametrize("where", ["pickle", "tensor's bytes", "old file", "zip"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path: Path, name: str, where: str) -> None:
    mark = tmp_path / "mark"
    evil = hostile(mark)[name]
    if where == "pickle":
        data = old_torch.pickled({"net": {"a": torch.ones(2), "b": evil}})
    elif where == "tensor's bytes":
        inner = old_torch.storage_file(evil)
        data = pickle.dumps({"net": {"a": Calls(torch.storage._load_from_bytes, inner)}})
    elif where == "old file":
        data = old_torch.storage_file({"net": {"a": torch.ones(2), "b": evil}})
    else:
        data = in_zip(pickle.dumps({"net": {"b": evil}}, 2))
    with pytest.raises(InputError, match=r"model\.pickle.*the pickle asks for .*only checkpoints of plain") as caught:
        read_state_dicts(save(tmp_path, data))
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def in_zip(data: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in members.items():
            archive.writestr(f"archive/data/{name}", content)
    return stream.getvalue()


def test_bytes_that_pickle_again_are_not_run(tmp_path: Path) -> None:
    """What `torch.storage._load_from_bytes` would run: a tensor's bytes within a tensor's bytes."""
    mark = tmp_path / "mark"
    inner = pickle.dumps(hostile(mark)["os.system"], 2)
    twice = old_torch.storage_file({"a": Calls(torch.storage._load_from_bytes, old_torch.storage_file([1]))})
    for data in (inner, twice, old_torch.storage_file([1, 2]), b"", pickle.dumps(old_torch.MAGIC) * 2):
        file = save(tmp_path, pickle.dumps({"net": {"a": Calls(torch.storage._load_from_bytes, data)}}))
        with pytest.raises(InputError):
            read_state_dicts(file)
        assert not mark.exists()


def rebuilt(*args: Any) -> bytes:
    storage = Calls(torch.storage._load_from_bytes, old_torch.storage_file(old_torch.Storage(torch.ones(4))))
    return pickle.dumps({"net": {"a": Calls(torch._utils._rebuild_tensor_v2, storage, *args)}})


@pytest.mark.parametrize(
    "args",
    [
        (0, (5,), (1,)),  # more than the storage has
        (2, (3,), (1,)),
        (0, (2, 2), (3, 2)),
        (-1, (2,), (1,)),  # before it
        (0, (2,), (-1,)),
        (0, (10**6, 10**6), (0, 0)),  # one number shown a million million times
        (0, (2**62, 4), (1, 1)),
        (0, (2,), (1, 1)),
        (0, [2], [1]),
        (0, ("2",), (1,)),
        (0, (1,) * 9, (1,) * 9),
    ],
)
def test_tensors_that_reach_out_of_their_storage_are_refused(tmp_path: Path, args: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match="the pickle asks for a tensor"):
        read_state_dicts(save(tmp_path, rebuilt(*args)))


def test_a_tensor_within_its_storage_is_taken(tmp_path: Path) -> None:
    found = read_state_dicts(save(tmp_path, rebuilt(0, (2, 2), (2, 1), False, collections.OrderedDict())))
    assert found["net"] is not None
    assert torch.equal(found["net"]["a"], torch.ones(2, 2))


def test_zip_files_that_torch_does_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = pickle.dumps({"net": {}}, 2)
    assert read_state_dicts(save(tmp_path, in_zip(good))) == {"net": {}}
    bomb = in_zip(good, zipfile.ZIP_DEFLATED, big=bytes(10**7))
    with pytest.raises(InputError, match="compressed"):
        read_state_dicts(save(tmp_path, bomb))
    monkeypatch.setattr(pickled_tensors, "MOST_MEMBERS", 8)
    with pytest.raises(InputError, match=r"for 9 files"):
        read_state_dicts(save(tmp_path, in_zip(good, **{str(i): b"" for i in range(8)})))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../data.pkl/../../x", good)
    with pytest.raises(InputError, match="damaged, or no checkpoint"):
        read_state_dicts(save(tmp_path, stream.getvalue()))


def test_a_zip_file_whose_members_share_their_bytes(tmp_path: Path) -> None:
    """Overlapping members say more bytes than the file has."""
    data = bytearray(in_zip(pickle.dumps({"net": {}}, 2), **{"0": bytes(2000), "1": b""}))
    entry = data.rfind(b"PK\x01\x02")  # the last member's entry: give it the sizes and the place of the one before
    before = data.rfind(b"PK\x01\x02", 0, entry)
    for field, length in ((16, 12), (42, 4)):
        data[entry + field : entry + field + length] = data[before + field : before + field + length]
    with pytest.raises(InputError, match="compressed|damaged"):
        read_state_dicts(save(tmp_path, bytes(data)))


def old_file(body: bytes, keys: bytes = b"\x80\x02].", machine: dict[str, Any] | None = None) -> bytes:
    head = [pickle.dumps(x, 2) for x in (old_torch.MAGIC, old_torch.PROTOCOL, machine or old_torch.MACHINE)]
    return b"".join([*head, body, keys])


def reference(*pid: Any) -> bytes:
    """A pickle of {"net": {"a": one tensor of a storage with this reference}}."""
    stream = io.BytesIO()

    class Referring(old_torch.StoragePickler):
        def persistent_id(self, obj: Any) -> Any:
            return pid if isinstance(obj, old_torch.Storage) else None

    Referring(stream, 2, "cpu").dump({"net": {"a": torch.ones(2)}})
    return stream.getvalue()


@pytest.mark.parametrize("where", ["pickle", "tensor's bytes", "zip"])
def test_keys_that_would_end_the_process(tmp_path: Path, where: str) -> None:
    """The hash of a tuple in a tuple in a tuple, 150,000 deep, overflows the stack of the process."""
    hostile = b"\x80\x02}N" + b"\x85" * 150_000 + b"Ns."
    if where == "tensor's bytes":
        load = b"ctorch.storage\n_load_from_bytes\n"
        hostile = b"\x80\x03" + load + b"B" + len(hostile).to_bytes(4, "little") + hostile + b"\x85R."
    if where == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", hostile)
        hostile = stream.getvalue()
    with pytest.raises(InputError, match=r"model\.pickle: the pickle asks for a tuple as a key"):
        read_state_dicts(save(tmp_path, hostile))


@pytest.mark.parametrize(
    "pid",
    [
        ("module", nn.Linear, "linear.py", "import os"),
        ("storage", torch.FloatStorage, "1", "cpu", 2**40, None),  # more than the file holds
        ("storage", torch.FloatStorage, "1", "cpu", -2, None),
        ("storage", torch.FloatStorage, "1", "cpu", 2, ("view", 0, 2)),
        ("storage", "FloatStorage", "1", "cpu", 2, None),
        ("storage",),
        "1",
        7,
    ],
)
def test_strange_references_are_refused(tmp_path: Path, pid: Any) -> None:
    body = reference(*pid) if isinstance(pid, tuple) else reference(pid)
    numbers = struct.pack("<q2f", 2, 1, 1)
    with pytest.raises(InputError):
        read_state_dicts(save(tmp_path, old_file(body, pickle.dumps(["1"], 2) + numbers)))


def test_old_files_that_do_not_hold_what_they_say(tmp_path: Path) -> None:
    pid = ("storage", torch.FloatStorage, "1", "cpu", 2, None)
    numbers = struct.pack("<q2f", 2, 1, 1)
    one = pickle.dumps(["1"], 2)
    assert read_state_dicts(save(tmp_path, old_file(reference(*pid), one + numbers)))["net"] is not None
    cases = {
        "not in the file": old_file(reference(*pid)),
        "that no tensor uses": old_file(reference(*pid), pickle.dumps(["2"], 2) + numbers),
        "another length": old_file(reference(*pid), one + struct.pack("<q3f", 3, 1, 1, 1)),
        "with 4 bytes": old_file(reference(*pid), one + numbers[:-4]),
        "another byte order": old_file(reference(*pid), one + numbers, {"little_endian": False}),
    }
    for said, data in cases.items():
        with pytest.raises(InputError, match=said):
            read_state_dicts(save(tmp_path, data))


def test_every_cut_of_a_checkpoint_is_an_input_error(tmp_path: Path) -> None:
    small = {"net": old_torch.state_dict({"a": torch.ones(2)})}
    for write in FORMATS.values():
        whole = write(small)
        for length in range(0, len(whole), 37):
            with pytest.raises(InputError):
                read_state_dicts(save(tmp_path, whole[:length]))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "model.pickle"
    with file.open("wb") as stream:
        stream.truncate(pickled_tensors.LARGEST + 1)  # takes no room on the disk
    with pytest.raises(InputError, match=r"only checkpoints up to 4,294,967,296 are read"):
        read_state_dicts(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_state_dicts(tmp_path / "none.pickle")
