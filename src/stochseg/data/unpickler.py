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

_Kind = int | str
"""Of an object on the stack: the bytes of a text, 0 for most others, and a word for what is no key."""
_PLAIN = 0
_STRANGE = ("DUP", "POP", "POP_MARK", "EMPTY_SET", "FROZENSET", "ADDITEMS")
_KEYS = {"SETITEM": slice(1, 2), "SETITEMS": slice(1, None, 2), "DICT": slice(0, None, 2)}
"""Where the keys are among what an instruction takes from the stack."""
_SMALL = 2**60
"""Whole numbers below this have hashes of their own."""


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
    """Refuse what no pickle of plain data holds and what would take far more memory or time than the file has bytes.

    That is a place in the memory of the unpickler far beyond those in use (it would reserve all before it), one long
    text copied again and again by calls, and keys that take long to hash or collide: a tuple of tuples of tuples ends
    the process or never ends, whole numbers of many digits make a table slow. So that what lies on its stack is known
    here, instructions that drop or double that are refused too; Python writes none of them for plain data, and builds
    the arguments of each call anew.
    """
    kept: dict[int, _Kind] = {}  # place in the memory -> what is there
    stack: list[_Kind | None] = []  # None is a mark
    again, anew, start = 0, True, stream.tell()
    for number, (code, argument, _) in enumerate(pickletools.genops(stream)):
        name = code.name
        if name in _STRANGE or (name in ("REDUCE", "BUILD") and not anew):
            refuse(f"the instruction {name} in a place of its own")
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(kept) if name == "MEMOIZE" else int(argument or 0)
            if not 0 <= place <= number:
                refuse(f"place {place} of a memory with {len(kept)} in use")
            kept[place] = (stack[-1] if stack else None) or _PLAIN
            continue
        anew = name not in ("GET", "BINGET", "LONG_BINGET")
        if not anew:
            stack.append(kept.get(int(argument or 0), _PLAIN))
            again += stack[-1] if isinstance(stack[-1], int) and stack[-1] >= LONG else 0
            continue
        taken = _take(stack, code)
        for key in taken[_KEYS[name]] if name in _KEYS else ():
            if isinstance(key, str):
                refuse(f"{key} as a key")
        stack += [None] if name == "MARK" else [_kind(name, argument)] * len(code.stack_after)
    if again > stream.tell() - start + SOME:
        refuse("the same data again and again")


def _kind(name: str, argument: Any) -> _Kind:
    if name.startswith("TUPLE"):
        return "a tuple"
    if isinstance(argument, int) and abs(argument) >= _SMALL:
        return "a number of many digits"
    return len(argument) if isinstance(argument, str | bytes | bytearray) else _PLAIN


def _take(stack: list[_Kind | None], code: pickletools.OpcodeInfo) -> list[_Kind | None]:
    """What an instruction takes from the stack, lowest first, without the mark."""
    wanted = code.stack_before
    if pickletools.markobject not in wanted:
        below, above = len(wanted), len(stack)
    else:
        below = wanted.index(pickletools.markobject)
        above = next((i for i in range(len(stack) - 1, -1, -1) if stack[i] is None), -1)
    if above < below:
        refuse(f"more than there is, with the instruction {code.name}")
    taken = stack[above - below : above] + stack[above + 1 :] if above < len(stack) else stack[above - below :]
    del stack[above - below :]
    return taken


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
