"""Many files in a folder, a tar or a zip, read by name. Archives are read in place: nothing is ever unpacked to disk.

A name is a path with forward slashes that begins with the name of the folder or archive itself
(`lidc_crops_train.tar.gz` gives `lidc_crops_train/...`), since that name often says what is inside.
"""

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

from stochseg.data.reading import open_zip
from stochseg.errors import InputError

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_MEMBERS = 1_000_000
MAX_MEMBER_BYTES = 64 * 2**20
"""The largest single member that is read; larger ones may be there as long as nobody asks for them."""
MAX_TOTAL_BYTES = 64 * 2**30
MAX_NOTE_BYTES = 2**20
"""The largest note of a tar on a member, such as a long name, which would be read into memory whole."""
_NOTES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class Files(Protocol):
    """Named files of one place."""

    def names(self) -> list[str]:
        """All names, those of hidden files left out."""

    def where(self, name: str) -> str:
        """What to call this file in a message to the user."""

    def read_each(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Each wanted name once with its bytes, in whatever order is fast here."""


class FolderFiles:
    """The files below a folder; links are followed, each folder is visited once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix = Path(os.path.abspath(path)).name  # noqa: PTH100 (resolve would replace a link by its target)

    def names(self) -> list[str]:
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        todo = [(os.fspath(self.path), self._prefix)]
        while todo:
            folder, prefix = todo.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error
            for entry in entries:
                if _hidden(entry.name):
                    continue
                if entry.is_dir():
                    facts = entry.stat()
                    if (facts.st_dev, facts.st_ino) not in seen:
                        seen.add((facts.st_dev, facts.st_ino))
                        todo.append((entry.path, f"{prefix}/{entry.name}"))
                elif entry.is_file():
                    found.append(f"{prefix}/{entry.name}")
        return sorted(found)

    def where(self, name: str) -> str:
        return os.path.join(self.path, name.removeprefix(f"{self._prefix}/"))  # noqa: PTH118 (called for every file)

    def read_each(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in wanted:
            try:
                yield name, Path(self.where(name)).read_bytes()
            except OSError as error:
                raise InputError(f"{self.where(name)}: cannot be read ({error.strerror})") from error


class ArchiveFiles:
    """The files of one .tar, .tar.gz, .tgz or .zip.

    Raises InputError for a damaged archive, for member names that lead out of it, for links, and for more members or
    bytes than the limits of this module.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        suffix = next(s for s in ARCHIVE_SUFFIXES[::-1] if path.name.lower().endswith(s))
        self._prefix = path.name[: -len(suffix)]
        self._members = self._list_zip if suffix == ".zip" else self._list_tar

    def names(self) -> list[str]:
        names: list[str] = []
        total = 0
        try:
            for count, (member, size, link, _) in enumerate(self._members(), 1):
                total += size
                if count > MAX_MEMBERS or total > MAX_TOTAL_BYTES:
                    raise InputError(
                        f"{self.path}: more than {MAX_MEMBERS} files or {MAX_TOTAL_BYTES >> 30} GiB; "
                        "unpack it by hand and pass the folder"
                    )
                if link or member.startswith("/") or ".." in PurePosixPath(member).parts or "\\" in member:
                    what = "is a link" if link else "leads out of the archive"
                    raise InputError(f"{self.path}: member '{member}' {what}; this archive is not to be trusted")
                if not any(_hidden(part) for part in PurePosixPath(member).parts):
                    names.append(f"{self._prefix}/{PurePosixPath(member)}")
        except InputError:
            raise
        except Exception as error:  # tarfile and zipfile fail at damage in many ways
            raise self._damaged(error) from error
        return names

    def where(self, name: str) -> str:
        return f"{self.path}: {name.removeprefix(f'{self._prefix}/')}"

    def read_each(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        left = set(wanted)
        members = self._members()
        while left:
            try:
                member, size, _, read = next(members)
                name = f"{self._prefix}/{PurePosixPath(member)}"
                if name not in left:
                    continue
                if size > MAX_MEMBER_BYTES:
                    raise InputError(f"{self.where(name)}: {size} bytes; at most {MAX_MEMBER_BYTES} are read")
                data = read()
            except InputError:
                raise
            except Exception as error:  # StopIteration too: what was listed is there no more
                raise self._damaged(error) from error
            left.remove(name)
            yield name, data

    def _damaged(self, error: BaseException) -> InputError:
        text = " ".join(str(error).split()) or type(error).__name__
        return InputError(f"{self.path}: damaged archive ({text}); copy or download it again")

    def _list_tar(self) -> Iterator[tuple[str, int, bool, Callable[[], bytes]]]:
        with tarfile.open(self.path, "r:*", tarinfo=_Member) as tar:
            for member in tar:
                if member.isdir():
                    continue

                def read(member: tarfile.TarInfo = member) -> bytes:
                    stream = tar.extractfile(member)
                    data = stream.read() if stream else b""
                    if len(data) != member.size:
                        raise tarfile.ReadError(f"'{member.name}' is cut short")
                    return data

                yield member.name, member.size, not member.isfile(), read
            # tarfile ends in silence at a damaged header and at a cut between two members.
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(512) != bytes(512):
                raise tarfile.ReadError("it ends before its end mark")
            while tar.fileobj.tell() - tar.offset < MAX_MEMBER_BYTES and tar.fileobj.read(2**20):
                pass  # gzip checks its sum only at its very end

    def _list_zip(self) -> Iterator[tuple[str, int, bool, Callable[[], bytes]]]:
        with open_zip(self.path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue

                def read(info: zipfile.ZipInfo = info) -> bytes:
                    with archive.open(info) as stream:
                        data = stream.read(info.file_size)  # no more, whatever its bytes unpack to
                    if len(data) != info.file_size:
                        raise zipfile.BadZipFile(f"'{info.filename}' is cut short")
                    return data

                yield info.filename, info.file_size, stat.S_ISLNK(info.external_attr >> 16), read


class _Member(tarfile.TarInfo):
    """A member whose notes are no larger than a name needs."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _NOTES and member.size > MAX_NOTE_BYTES:
            raise tarfile.ReadError(f"a name or note of {member.size} bytes")
        return member


class SeveralFiles:
    """The files of several archives together."""

    def __init__(self, parts: list[ArchiveFiles]) -> None:
        self._parts = parts
        self._owner: dict[str, ArchiveFiles] = {}

    def names(self) -> list[str]:
        for part in self._parts:
            for name in part.names():
                other = self._owner.setdefault(name, part)
                if other is not part:
                    raise InputError(f"{other.path} and {part.path} both hold '{name}'; keep one of them")
        return list(self._owner)

    def where(self, name: str) -> str:
        return self._owner[name].where(name)

    def read_each(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for part in self._parts:
            yield from part.read_each([name for name in wanted if self._owner[name] is part])


def is_archive(path: Path) -> bool:
    """Whether the name of this file is that of an archive that can be read here."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"
