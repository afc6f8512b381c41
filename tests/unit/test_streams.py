"""Compressed streams: whole or refused, whatever they are made of; both digests are those of what is there."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.drivers.rootfs.streams import CHUNK, Stream
from orchestrator.drivers.rootfs.tarball import TarError

TEXT = b"".join(b"%d\n" % n for n in range(200_000))
PACKS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda raw: gzip.compress(raw, 1, mtime=0),
    "bzip2": bz2.compress,
    "xz": lambda raw: lzma.compress(raw, preset=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def read(raw: bytes, most: int = 1 << 30, size: int = CHUNK) -> tuple[bytes, str, str]:
    stream = Stream(io.BytesIO(raw), most)
    try:
        found = b"".join(iter(lambda: stream.read(size), b""))
        return found, stream.raw, stream.content
    finally:
        stream.close()


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("parts", [1, 3, 50])
def test_streams_that_follow_each_other_are_one(name: str, parts: int) -> None:
    size = len(TEXT) // parts + 1
    raw = b"".join(PACKS[name](TEXT[at : at + size]) for at in range(0, len(TEXT), size))
    assert read(raw) == (TEXT, sha256(raw), sha256(TEXT))


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_zeros_may_follow_and_nothing_else(name: str) -> None:
    raw = PACKS[name](TEXT)
    assert read(raw + bytes(1000))[0] == TEXT
    with pytest.raises(TarError, match="damaged"):
        read(raw + b"more of something else")


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.01, 0.999))
def test_a_stream_that_was_cut_is_refused(name: str, share: float) -> None:
    raw = PACKS[name](TEXT[:50_000])
    with pytest.raises(TarError, match="damaged"):
        read(raw[: max(6, int(len(raw) * share))])


def test_a_skippable_frame_of_zstd_is_passed_over() -> None:
    frame = b"\x50\x2a\x4d\x18\x04\x00\x00\x00note"
    raw = frame + PACKS["zstd"](TEXT) + frame
    assert read(raw) == (TEXT, sha256(raw), sha256(TEXT))


def test_a_window_of_a_gigabyte_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=30, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    raw = packer.compress(TEXT) + packer.flush()
    with pytest.raises(TarError, match="damaged"):
        read(raw)


def test_no_more_is_given_than_was_allowed() -> None:
    with pytest.raises(TarError, match="more than 1000000 bytes"):
        read(PACKS["gzip"](bytes(50_000_000)), most=1_000_000)


def test_what_is_left_unread_ends_with_the_stream() -> None:
    stream = Stream(io.BytesIO(PACKS["gzip"](bytes(50_000_000))), 1 << 30)
    assert stream.read(10) == bytes(10)
    stream.close()
    assert stream.read(10) == b""


def test_an_error_of_the_disk_stays_one() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "input/output error")

    stream = Stream(Broken(), 1 << 30)
    with pytest.raises(OSError, match="input/output"):
        stream.read(1)
    stream.close()
