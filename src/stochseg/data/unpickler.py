"""An unpickler that builds nothing but what a list of names allows, and cannot be made to fill the memory.

A pickle is a program. Here each name it may call is replaced by a stand-in of ours, so that not even the real function
of an allowed name runs, and its instructions are looked through before the first of them is followed.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

Names = Mapping[tuple[str, str], Any]
"""What stands for a name, by module and name: a StandIn, or data."""
LONG = 1024
"""Bytes from which a text counts as data: shorter ones, such as names of patients, may be used again and again."""
SOME = 2**20
"""Bytes of long texts that may be used again in a small file."""


class StandIn:
    """What an allowed name stands for. It can be called, and a pickle can do nothing else to it."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __call__(self, *args: Any) -> Any:
        return self._build(*args)

    def __setstate__(self, state: Any) -> None:
        refuse("a change to a name it may only call")


def unpickle(stream: BinaryIO, names: Names, referred: Callable[[Any], Any] | None = None) -> Any:
    """The object of the pickle that begins here in a stream that can be sought; leaves the stream at the pickle's end.

    names: by module and name. referred: what a persistent reference stands for; None refuses them. Raises
    pickle.UnpicklingError for anything refused, and many other errors for a damaged pickle.
    """
    start = stream.tell()
    check_instructions(stream)
    stream.seek(start)
    return _Unpickler(stream, names, referred).load()


def check_instructions(stream: BinaryIO) -> None:
    """Refuse what no pickle of plain data holds and what would take far more memory than the file has bytes.

    That is a place in the memory of the unpickler far beyond those in use (it would reserve all before it), and one
    long text copied again and again by calls. So that what is at the top of its stack is known here, instructions that
    drop or double that are refused too; Python writes none of them for plain data, and builds the arguments of each
    call anew.
    """
    texts: dict[int, int] = {}  # place in the memory -> bytes of the text there
    above, again, anew, start = 0, 0, True, stream.tell()
    for number, (code, argument, _) in enumerate(pickletools.genops(stream)):
        name = code.name
        if name in ("DUP", "POP", "POP_MARK") or (name in ("REDUCE", "BUILD") and not anew):
            refuse(f"the instruction {name} in a place of its own")
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(texts) if name == "MEMOIZE" else int(argument or 0)
            if not 0 <= place <= number:
                refuse(f"place {place} of a memory with {len(texts)} in use")
            texts[place] = above
            continue
        anew = name not in ("GET", "BINGET", "LONG_BINGET")
        if anew:
            above = len(argument) if isinstance(argument, str | bytes | bytearray) else 0
        else:
            above = texts.get(int(argument or 0), 0)
            again += above if above >= LONG else 0
    if again > stream.tell() - start + SOME:
        refuse("the same data again and again")


def refuse(what: str) -> NoReturn:
    raise pickle.UnpicklingError(f"the pickle asks for {what}")


def _bytes(text: Any, encoding: Any) -> bytes:
    # How protocols 0 to 2 write bytes. The real function would take any codec, compression among them.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        refuse("a text encoding")
    return text.encode("latin-1")


TEXT_AS_BYTES = StandIn(_bytes)
"""For the name `_codecs.encode`."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, names: Names, referred: Callable[[Any], Any] | None) -> None:
        super().__init__(stream, encoding="latin-1")  # Python 2 wrote byte strings, which come as text of this encoding
        self._names, self._referred = names, referred

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            refuse(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        if self._referred is None:
            refuse("a persistent reference")
        return self._referred(pid)
