"""Pickles of numeric arrays come back whole; everything else is refused before it can do anything."""

import collections
import copyreg
import ctypes
import operator
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stochseg.data.restricted_pickle import PickledArray, load_numeric_pickle
from stochseg.errors import InputError

RNG = np.random.default_rng(0)
ARRAYS = [
    RNG.random((5, 7)),
    RNG.random((3, 4, 2)).astype(np.float32),
    RNG.random((6, 6)).astype(">f8"),
    np.asfortranarray(RNG.random((4, 9))),
    RNG.integers(0, 256, (8, 8), dtype=np.uint8),
    RNG.integers(-9, 9, (2, 3)).astype(np.int64),
    RNG.random((9, 9)) > 0.5,
    RNG.random((8, 8))[::2, 1::3],
    np.array(2.5),
]


def save(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "data.pickle"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back_whole(tmp_path: Path, protocol: int) -> None:
    wanted: dict[str, Any] = {"text": "1.3.6.1", "number": -1.5, "big": 2**70, "none": None, "flags": [True, (1, "é")]}
    wanted |= {"scalar": np.float64(0.25), "count": np.int32(7)}
    entry = {**wanted, "arrays": ARRAYS}
    found = load_numeric_pickle(save(tmp_path, pickle.dumps({"key": entry}, protocol=protocol)))["key"]
    assert {name: found[name] for name in wanted} == wanted
    for array, back in zip(ARRAYS, found["arrays"], strict=True):
        assert isinstance(back, PickledArray)
        np.testing.assert_array_equal(np.asarray(back), array)
        assert np.asarray(back).dtype == array.dtype


def test_both_names_of_numpys_modules_are_known(tmp_path: Path) -> None:
    data = pickle.dumps(ARRAYS[0], protocol=2)  # this protocol writes names as plain lines
    new = data.replace(b"cnumpy.core.", b"cnumpy._core.")
    old = new.replace(b"cnumpy._core.", b"cnumpy.core.")
    assert old != new
    for variant in (old, new):
        np.testing.assert_array_equal(np.asarray(load_numeric_pickle(save(tmp_path, variant))), ARRAYS[0])


def test_an_array_written_by_python_2(tmp_path: Path) -> None:
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x07\xfftb."
    )
    assert np.asarray(load_numeric_pickle(save(tmp_path, data))).tolist() == [7, 255]
    assert pickle.loads(data, encoding="latin-1").tolist() == [7, 255]


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def hostile(mark: Path) -> dict[str, Any]:
    command = f"touch {mark}"
    in_object_array = np.empty(1, dtype=object)
    in_object_array[0] = Calls(os.system, command)
    return {
        "os.system": Calls(os.system, command),
        "subprocess": Calls(subprocess.call, ["touch", str(mark)]),
        "eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(mark)!r}, 'w')"),
        "open": Calls(open, str(mark), "w"),
        "getattr chain": Calls(getattr, Calls(__import__, "os"), "system"),
        "attrgetter": operator.attrgetter("system"),
        "apply": Calls(operator.call, Calls(getattr, Calls(__import__, "os"), "system"), command),
        "object array": in_object_array,
        "deep in an entry": {"a": {"image": np.zeros(3), "masks": [np.ones(3), Calls(os.system, command)]}},
        "ctypes": Calls(ctypes.CDLL, "libc.so.6"),
        "numpy.load": Calls(np.load, str(mark)),
        "numpy.fromfile": Calls(np.fromfile, "/dev/zero"),
        "numpy.memmap": Calls(np.memmap, str(mark), np.uint8, "w+", 0, (4,)),
        "a builtin type": Calls(bytearray, 10**15),
        "a class": collections.OrderedDict(a=1),
        "copyreg": Calls(copyreg.add_extension, "os", "system", 7),
        "object dtype": np.dtype("O"),
        "structured array": np.zeros(2, dtype=[("a", "f4"), ("b", "i2")]),
        "text array": np.array(["a", "b"]),
        "dates": np.array(["2020-01-01"], dtype="M8[D]"),
        "masked array": np.ma.masked_array([1, 2], [0, 1]),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", list(hostile(Path("mark"))))
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path: Path, name: str, protocol: int) -> None:
    mark = tmp_path / "mark"
    file = save(tmp_path, pickle.dumps({"entry": hostile(mark)[name]}, protocol=protocol))
    with pytest.raises(InputError, match=r"data\.pickle.*the pickle asks for .*only pickles of plain numpy") as caught:
        load_numeric_pickle(file)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_the_same_pickle_harms_an_ordinary_unpickler(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(hostile(mark)["object array"]))
    assert mark.exists()


NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
BYTE = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"


@pytest.mark.parametrize(
    "data",
    [
        NDARRAY + b"(I1\n(I1000000000000\nt" + BYTE + b"I0\nS'ab'\ntb.",  # claims more than it holds
        NDARRAY + b"(I1\n(I-1\nI-2\nt" + BYTE + b"I0\nS'ab'\ntb.",  # two negative sizes with a fitting product
        NDARRAY + b"(I1\n(I2\nt" + b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR" + b"I0\n(lS'a'\naS'b'\natb.",  # objects
        NDARRAY + b"(I1\n(I8\nt" + BYTE + b"(I3\nS'|'\nN(S'a'\ntNI-1\nI-1\nI63\ntbI0\nS'abcdefgh'\ntb.",  # dtype state
        NDARRAY + b"(dS'_array'\nI1\nsb.",  # a state that is not one of an array
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",  # another type than ndarray
        b"cnumpy\nndarray\n((I1000000000000\nttR.",  # an array made by hand
        b"cnumpy\ndtype\n(N(dS'_build'\nI1\nstb.",  # changes what an allowed name does
        b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.",  # any other codec
        b"c_codecs\nencode\n(S'x'\nS'idna'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",  # a dotted name, to climb from an allowed one
        b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        b"Pos.system\n.",  # a persistent reference
    ],
)
def test_pickles_written_by_hand_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match="the pickle asks for"):
        load_numeric_pickle(save(tmp_path, data))


TEXT = b"X" + (2**20).to_bytes(4, "little") + b"a" * 2**20 + b"q\x00"  # a text of a megabyte, kept at place 0
ENCODE = b"c_codecs\nencode\n"


@pytest.mark.parametrize(
    "data",
    [
        b"]r\xff\xff\xff\x7f.",  # a place in memory that makes the unpickler reserve 32 GB
        b"]p2147483647\n.",
        b"(" + TEXT + (ENCODE + b"(h\x00S'latin1'\ntR") * 30 + b"l.",  # thirty megabytes out of one, each by a call
        b"(" + ENCODE + b"q\x02(" + TEXT + b"S'latin1'\ntq\x01R" + b"h\x02h\x01R" * 30 + b"l.",  # by one tuple
        b"(" + TEXT + (NDARRAY + b"(I1\n(I1048576\nt" + BYTE + b"I0\nh\x00tb") * 30 + b"l.",
        b"(" + TEXT + b"2" * 30 + b"l.",
        b"(" + TEXT + b"0" + b"l.",
    ],
)
def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match="the pickle asks for (place|the same data|the instruction)"):
        load_numeric_pickle(save(tmp_path, data))


TWICE = b"".join(b"h%ch%c\x86q%cN" % (k, k, k + 1) for k in range(44))
"""After None at place 0: tuples of twice the one before, to the 44th, each with None beside it."""


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x80\x02}N" + b"\x85" * 150_000 + b"Ns.", "a tuple"),  # its hash overflows the stack of the process
        (b"\x80\x02}(Nq\x00N" + TWICE + b"u.", "a tuple"),  # its hash takes days
        (b"(N\x85Nd.", "a tuple"),
        (
            b"\x80\x02}("
            + b"".join(b"\x8a\x0c%bN" % (n * (2**61 - 1)).to_bytes(12, "little") for n in range(1, 9))
            + b"u.",
            "a number of many digits",
        ),  # all of one hash: thousands of them take hours
        (b"\x80\x04\x8f(Nq\x00N" + TWICE + b"\x90.", "the instruction EMPTY_SET"),
        (b"\x80\x04(N" + b"\x85" * 150_000 + b"\x91.", "the instruction FROZENSET"),
    ],
)
def test_keys_that_would_end_the_process_or_never_end(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(InputError, match=f"the pickle asks for {what}"):
        load_numeric_pickle(save(tmp_path, data))


@pytest.mark.parametrize("data", [b"\x80\x02s.", b"\x80\x02(u.", b"t.", b"\x80\x02Nb.", b"(NNu."])
def test_more_is_taken_than_there_is(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match="more than there is"):
        load_numeric_pickle(save(tmp_path, data))


def test_a_text_used_twice_is_no_attack(tmp_path: Path) -> None:
    name = "a name" * 200
    array = np.arange(4)
    wanted = [{"patient": name, "image": array, "again": [array]} for _ in range(3)]
    found = load_numeric_pickle(save(tmp_path, pickle.dumps(wanted)))
    assert [one["patient"] for one in found] == [name] * 3
    assert np.asarray(found[2]["again"][0]).tolist() == [0, 1, 2, 3]


def test_what_allowed_names_do_cannot_be_changed(tmp_path: Path) -> None:
    before = pickle.dumps(ARRAYS[0])
    for name in (b"numpy\ndtype", b"numpy\nndarray", b"_codecs\nencode"):
        with pytest.raises(InputError):
            load_numeric_pickle(save(tmp_path, b"c" + name + b"\n(dS'_build'\nI1\nsb."))
    np.testing.assert_array_equal(np.asarray(load_numeric_pickle(save(tmp_path, before))), ARRAYS[0])


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x89PNG\r\n\x1a\n", b"\x80\x05\x95\xff", b"(I1\nt", b"0."])
def test_damaged_files(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match=r"data\.pickle"):
        load_numeric_pickle(save(tmp_path, data))


def test_every_cut_of_a_pickle_is_an_input_error(tmp_path: Path) -> None:
    whole = pickle.dumps({"a": {"image": np.zeros((2, 2)), "masks": [np.ones((2, 2), np.uint8)] * 4}})
    for length in range(len(whole)):
        with pytest.raises(InputError):
            load_numeric_pickle(save(tmp_path, whole[:length]))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_numeric_pickle(tmp_path / "none.pickle")
