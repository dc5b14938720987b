"""Archives are read in place, whole or not at all, and nothing in them reaches outside."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from stochseg.data import archives
from stochseg.data.archives import ARCHIVE_SUFFIXES, ArchiveFiles, FolderFiles, SeveralFiles
from stochseg.errors import InputError

CONTENT = {f"top/f{n}.bin": bytes([n]) * (n * 300) for n in range(12)}


def pack(file: Path, content: dict[str, bytes]) -> Path:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return file
    with tarfile.open(file, "w" if file.suffix == ".tar" else "w:gz") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def read_all(file: Path) -> dict[str, bytes]:
    files = ArchiveFiles(file)
    return dict(files.read_each(files.names()))


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_what_was_packed_comes_back(tmp_path: Path, suffix: str) -> None:
    files = ArchiveFiles(pack(tmp_path / f"a{suffix}", CONTENT))
    assert files.names() == [f"a/{name}" for name in CONTENT]
    assert dict(files.read_each(files.names())) == {f"a/{name}": data for name, data in CONTENT.items()}
    some = ["a/top/f7.bin", "a/top/f2.bin"]
    assert dict(files.read_each(some)) == {name: CONTENT[name[2:]] for name in some}
    assert files.where(some[0]) == f"{tmp_path}/a{suffix}: top/f7.bin"


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
@pytest.mark.parametrize("name", ["../f.bin", "top/../../f.bin", "/etc/f.bin", "top\\..\\f.bin"])
def test_members_that_lead_out_are_refused(tmp_path: Path, suffix: str, name: str) -> None:
    with pytest.raises(InputError, match="leads out of the archive; this archive is not to be trusted"):
        ArchiveFiles(pack(tmp_path / f"a{suffix}", CONTENT | {name: b"x"})).names()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("top/f.png")
    info.type, info.linkname = kind, "../../secret.png"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(info)
    with pytest.raises(InputError, match=r"'top/f\.png' is a link"):
        ArchiveFiles(tmp_path / "a.tar").names()


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("top/f.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "../../secret.png")
    with pytest.raises(InputError, match=r"'top/f\.png' is a link"):
        ArchiveFiles(tmp_path / "a.zip").names()


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_every_cut_is_noticed(tmp_path: Path, suffix: str) -> None:
    whole = pack(tmp_path / f"whole{suffix}", CONTENT).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    # A tar is padded with zeros after its end mark, and only they may be missing.
    last = len(whole.rstrip(b"\0")) + 512 if suffix == ".tar" else len(whole)
    for length in [0, 1, 100, *range(512, last, 512), last - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged archive"):
            read_all(cut)


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_damage_in_the_middle_is_noticed(tmp_path: Path, suffix: str) -> None:
    data = bytearray(pack(tmp_path / f"a{suffix}", CONTENT).read_bytes())
    middle = 512 * 9 if suffix == ".tar" else len(data) // 2  # a header of the tar
    data[middle : middle + 40] = b"damage! " * 5
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(InputError, match=r"damaged archive|at most \d+ are read"):
        read_all(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_limits(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ArchiveFiles(pack(tmp_path / f"a{suffix}", CONTENT))
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 3000)
    with pytest.raises(InputError, match=r"top/f11\.bin: 3300 bytes; at most 3000 are read"):
        dict(files.read_each(["a/top/f11.bin"]))
    assert dict(files.read_each(["a/top/f10.bin"])) == {"a/top/f10.bin": CONTENT["top/f10.bin"]}
    monkeypatch.setattr(archives, "MAX_MEMBERS", 11)
    with pytest.raises(InputError, match="more than 11 files"):
        files.names()
    monkeypatch.setattr(archives, "MAX_MEMBERS", 12)
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", sum(map(len, CONTENT.values())) - 1)
    with pytest.raises(InputError, match="unpack it by hand"):
        files.names()


def test_a_zip_that_lies_about_sizes(tmp_path: Path) -> None:
    data = pack(tmp_path / "a.zip", {"bomb.png": bytes(5_000_000)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(InputError, match="damaged archive"):
        dict(ArchiveFiles(tmp_path / "a.zip").read_each(["a/bomb.png"]))


def test_several_archives_may_not_hold_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    one, two = (ArchiveFiles(pack(folder / "a.tar", CONTENT)) for folder in (tmp_path, tmp_path / "b"))
    with pytest.raises(InputError, match=r"a\.tar and .*b/a\.tar both hold 'a/top/f0\.bin'"):
        SeveralFiles([one, two]).names()


def test_folders_leave_hidden_files_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/a.png", "x/.b.png", ".git/c.png", "__MACOSX/x/._a.png"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(b"data")
    assert FolderFiles(tmp_path / "root").names() == ["root/x/a.png"]
    monkeypatch.chdir(tmp_path / "root")
    here = FolderFiles(Path())
    assert here.names() == ["root/x/a.png"]
    assert dict(here.read_each(here.names())) == {"root/x/a.png": b"data"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_note_that_would_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    """A few kilobytes that unpack to a name of many megabytes."""
    note = tarfile.TarInfo("name")
    note.type, note.size = kind, 64 * 2**20
    with gzip.open(tmp_path / "x.tar.gz", "wb") as stream:
        stream.write(note.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            stream.write(bytes(2**20))
        stream.write(tarfile.TarInfo("a").tobuf() + bytes(1024))
    assert (tmp_path / "x.tar.gz").stat().st_size < 2**18
    with pytest.raises(InputError, match="a name or note of 67108864 bytes"):
        ArchiveFiles(tmp_path / "x.tar.gz").names()
