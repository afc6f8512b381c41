"""The log ring: lines come back whole and in order, whatever a kill left behind."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.supervisor import logs
from orchestrator.supervisor.logs import Cursor, LogLine, Ring, read


class Pipe:
    """A FIFO as the supervisor has it: non-blocking at our end."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.pipe()
        os.set_blocking(self.ours, False)

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def write(ring: Ring, pipe: Pipe, data: bytes, stream: int = 1) -> None:
    os.write(pipe.theirs, data)
    while ring.pump(pipe.ours, stream):
        pass


def texts(folder: Path, **how: float | int) -> list[tuple[str, bytes]]:
    return [(each.stream, each.text) for each in read(str(folder), **how)]  # type: ignore[arg-type]


def test_lines_are_joined_across_chunks_by_stream(tmp_path: Path, pipe: Pipe) -> None:
    ring = Ring(str(tmp_path / "r"), 1 << 20, 2)
    for data, stream in ((b"he", 1), (b"wa", 2), (b"llo\nend", 1), (b"rning\n", 2)):
        write(ring, pipe, data, stream)
    assert texts(tmp_path / "r") == [("stdout", b"hello"), ("stderr", b"warning"), ("stdout", b"end")]
    ring.close()


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=300)), max_size=30))
def test_each_stream_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[int, bytes]]
) -> None:
    folder, pipe = tmp_path_factory.mktemp("ring"), Pipe()
    ring = Ring(str(folder), 1 << 20, 2)
    try:
        for number, (stream, data) in enumerate(chunks):
            write(ring, pipe, data, stream)
            if number % 7 == 3:
                ring.close()  # as when idle; opened again by the next byte
        for stream, name in ((1, "stdout"), (2, "stderr")):
            whole = b"".join(data for each, data in chunks if each == stream)
            expected = whole.split(b"\n")
            found = [text for each, text in texts(folder) if each == name]
            assert found == (expected[:-1] if expected[-1] == b"" else expected)
    finally:
        ring.close()
        pipe.close()


def test_the_ring_is_bounded_and_lines_span_its_files(tmp_path: Path, pipe: Pipe) -> None:
    ring = Ring(str(tmp_path), 4096, 3)
    for number in range(2000):
        write(ring, pipe, b"line %d\n" % number)
    assert sum(each.stat().st_size for each in tmp_path.glob("*.log")) <= 3 * 4096
    found = [int(text.split()[1]) for _, text in texts(tmp_path)[1:]]  # the first may have lost its beginning
    assert found == list(range(found[0], 2000))
    assert len(found) > 800
    ring.close()


def test_tail_and_since(tmp_path: Path, pipe: Pipe) -> None:
    ring = Ring(str(tmp_path), 4096, 3)
    for number in range(600):
        write(ring, pipe, b"line %d\n" % number)
    assert texts(tmp_path, tail=2) == [("stdout", b"line 598"), ("stdout", b"line 599")]
    assert texts(tmp_path, tail=0) == []
    assert len(texts(tmp_path, tail=550)) == 550
    assert texts(tmp_path, since=time.time() + 60) == []
    assert len(texts(tmp_path, since=time.time() - 60, tail=3)) == 3
    ring.close()


def test_a_cursor_goes_on_over_rotations(tmp_path: Path, pipe: Pipe) -> None:
    ring, cursor = Ring(str(tmp_path), 4096, 3), Cursor(str(tmp_path))
    found: list[bytes] = []
    for number in range(1000):
        write(ring, pipe, b"line %d\n" % number)
        if number % 50 == 0:
            found += [each.text for each in cursor.poll()]
    found += [each.text for each in cursor.poll()]
    assert found == [b"line %d" % number for number in range(1000)]
    ring.close()


def test_a_writer_who_outruns_the_reader_does_not_keep_it_for_ever(tmp_path: Path, pipe: Pipe) -> None:
    ring, lines = Ring(str(tmp_path), 4096, 4), b"y\n" * 2048

    class Outrun(Cursor):
        reads = 0

        def _read(self) -> Iterator[LogLine]:
            self.reads += 1
            assert self.reads < 10
            write(ring, pipe, lines)
            yield from super()._read()

    write(ring, pipe, lines * 2)
    assert {each.text for each in Outrun(str(tmp_path)).poll()} == {b"y"}


@pytest.mark.parametrize("cut", range(17))
def test_an_index_that_is_torn_or_ahead_is_healed(tmp_path: Path, pipe: Pipe, cut: int) -> None:
    ring = Ring(str(tmp_path), 1 << 20, 2)
    write(ring, pipe, b"first\n")
    ring.close()
    index = tmp_path / "000001.idx"
    ahead = index.read_bytes() + (b"\1" * 8 + (99999 << 2).to_bytes(8, "little"))[:cut]
    index.write_bytes(ahead)
    write(ring, pipe, b"second\n", 2)
    assert texts(tmp_path) == [("stdout", b"first"), ("stderr", b"second")]
    assert index.stat().st_size == 32
    ring.close()


def test_bytes_without_an_index_are_kept(tmp_path: Path, pipe: Pipe) -> None:
    (tmp_path / "000001.log").write_bytes(b"lost and found\n")
    ring = Ring(str(tmp_path), 1 << 20, 2)
    write(ring, pipe, b"next\n")
    assert [text for _, text in texts(tmp_path)] == [b"lost and found", b"next"]
    ring.close()


def test_a_kill_between_record_and_bytes_changes_nothing(tmp_path: Path, pipe: Pipe) -> None:
    ring = Ring(str(tmp_path), 1 << 20, 2)
    write(ring, pipe, b"one\n", 1)
    ring._mark(2)  # and now it is killed
    ring.close()
    ring = Ring(str(tmp_path), 1 << 20, 2)
    write(ring, pipe, b"two\n", 1)
    assert texts(tmp_path) == [("stdout", b"one"), ("stdout", b"two")]
    ring.close()


def test_what_cannot_be_written_is_dropped_and_counted(
    tmp_path: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Ring(str(tmp_path), 1 << 20, 2)
    write(ring, pipe, b"before\n")

    def full(*arguments: object, **named: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(logs.os, "splice", full)
        write(ring, pipe, b"x" * 1000)  # never blocks
    assert ring.dropped == 1000
    write(ring, pipe, b"after\n")
    assert texts(tmp_path) == [
        ("stdout", b"before"),
        ("note", b"[1000 bytes were dropped: the log could not be written]"),
        ("stdout", b"after"),
    ]
    ring.close()


def test_a_file_system_without_splice_is_served(
    tmp_path: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> int:
        raise OSError(errno.EINVAL, "no splice")

    monkeypatch.setattr(logs.os, "splice", refuse)
    ring = Ring(str(tmp_path), 1 << 20, 2)
    write(ring, pipe, b"plain\n")
    assert texts(tmp_path) == [("stdout", b"plain")]
    ring.close()


def test_a_missing_folder_has_no_lines(tmp_path: Path) -> None:
    assert texts(tmp_path / "none") == []
    assert list(Cursor(str(tmp_path / "none")).poll()) == []
