"""The tar parser on hostile and damaged headers; no file system is touched."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.drivers.rootfs.tarball import BLOCK, Member, MemberType, Tarball, TarError


def archive(*members: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for each in members:
            tar.addfile(each, io.BytesIO(b"x" * each.size) if each.isreg() else None)
    return out.getvalue()


def info(name: str, **more: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(found, key, value)
    return found


def members(raw: bytes) -> list[Member]:
    return list(Tarball(io.BytesIO(raw)))


def rewritten(raw: bytes, change: Callable[[bytearray], None]) -> bytes:
    """The first header changed, with a sum that is right again."""
    header = bytearray(raw[:BLOCK])
    change(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + raw[BLOCK:]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_links_and_sizes_of_each_format(format: int) -> None:
    long = "/".join(["d" * 90] * 2) + "/f" if format == tarfile.USTAR_FORMAT else "/".join(["d" * 90] * 20)
    raw = archive(
        info(long, size=700, mode=0o4755, uid=12, gid=34),
        info("l", type=tarfile.SYMTYPE, linkname="/a/b"),
        info("d", type=tarfile.DIRTYPE),
        format=format,
    )
    found = members(raw)
    assert [(each.name.rstrip("/"), each.type, each.size, each.link) for each in found] == [
        (long, MemberType.FILE, 700, ""),
        ("l", MemberType.SYMLINK, 0, "/a/b"),
        ("d", MemberType.DIRECTORY, 0, ""),
    ]
    assert (found[0].mode, found[0].uid, found[0].gid) == (0o4755, 12, 34)


def test_a_members_bytes_are_its_own() -> None:
    tar = Tarball(io.BytesIO(archive(info("a", size=3), info("b", size=5))))
    assert [tar.read(100) for _ in tar] == [b"xxx", b"xxxxx"]


def test_unread_bytes_are_passed_over() -> None:
    assert [each.name for each in members(archive(info("a", size=5000), info("b")))] == ["a", "b"]


def negative_size(header: bytearray) -> None:
    header[124:136] = b"\xff" * 12


def huge_size(header: bytearray) -> None:
    header[124:136] = b"\x80" + b"\0" * 3 + b"\xff" * 8


def no_number(header: bytearray) -> None:
    header[108:116] = b"zzzzzzz\0"


@pytest.mark.parametrize("change", [negative_size, huge_size, no_number])
def test_impossible_headers_are_refused(change: Callable[[bytearray], None]) -> None:
    with pytest.raises(TarError):
        members(rewritten(archive(info("a")), change))


@pytest.mark.parametrize(
    "key,value", [("size", "-1"), ("uid", "4294967295"), ("size", "9" * 21), ("mtime", "x")]
)
def test_impossible_pax_values_are_refused(key: str, value: str) -> None:
    with pytest.raises(TarError):
        members(archive(info("a", pax_headers={key: value, "comment": "c"})))


def test_a_pax_header_of_a_gigabyte_is_refused_before_it_is_read() -> None:
    raw = rewritten(
        archive(info("a")), lambda header: header.__setitem__(slice(124, 136), b"%011o\0" % (1 << 30))
    )
    raw = rewritten(raw, lambda header: header.__setitem__(slice(156, 157), b"x"))
    with pytest.raises(TarError, match="a header of"):
        members(raw)


def test_text_is_no_archive() -> None:
    with pytest.raises(TarError, match="no tar archive"):
        members(b"hello\n" * 200)


def test_an_archive_cut_in_the_middle_of_a_file_is_refused() -> None:
    with pytest.raises(TarError, match="ends"):
        members(archive(info("a", size=5000))[: BLOCK + 1000])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 3 * BLOCK))
def test_any_bytes_give_members_or_an_error(noise: bytes, at: int) -> None:
    raw = bytearray(archive(info("a", size=10), info("b" * 200, pax_headers={"comment": "c"})))
    raw[at : at + len(noise)] = noise
    with contextlib.suppress(TarError):
        members(bytes(raw))
