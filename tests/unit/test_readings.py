"""Files that are kept open are read anew each time, within bounds, and never another's in their place."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.drivers.embedded.readings import Readings
from orchestrator.errors import StepError
from orchestrator.supervisor import wire

ONE, TWO = ("shop", "a"), ("shop", "b")


def descriptors(folder: Path) -> list[str]:
    found = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(each) for each in found if each.is_symlink()]
    return sorted(Path(each).name for each in targets if each.startswith(str(folder)))


@pytest.fixture
def few_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * (highest + 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_changed_is_seen_and_what_is_gone_is_none(tmp_path: Path) -> None:
    readings, file = Readings(), tmp_path / "max"
    assert readings.read(ONE, "max", str(file)) is None
    file.write_text("10")
    assert readings.read(ONE, "max", str(file)) == b"10"
    file.write_text("20")
    assert readings.read(ONE, "max", str(file)) == b"20"
    assert descriptors(tmp_path) == ["max"]


def test_another_path_takes_the_place_of_the_last(tmp_path: Path) -> None:
    readings = Readings()
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
        assert readings.read(ONE, "cgroup", str(tmp_path / name)) == name.encode()
    assert descriptors(tmp_path) == ["second"]


def test_a_process_that_ended_is_none_and_holds_no_descriptor() -> None:
    readings, pid = Readings(), os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    assert readings.read(ONE, "cgroup", f"/proc/{pid}/cgroup")
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert readings.read(ONE, "cgroup", f"/proc/{pid}/cgroup") is None
    assert descriptors(Path(f"/proc/{pid}")) == []


def test_only_those_of_the_stack_that_are_gone_are_closed(tmp_path: Path) -> None:
    readings = Readings()
    for owner in (ONE, TWO, ("other", "c")):
        (tmp_path / owner[1]).touch()
        readings.read(owner, "max", str(tmp_path / owner[1]))
    readings.keep("shop", {ONE})
    assert descriptors(tmp_path) == ["a", "c"]
    del readings
    assert descriptors(tmp_path) == []


@pytest.mark.usefixtures("few_files")
def test_beyond_its_share_of_descriptors_it_still_reads(tmp_path: Path) -> None:
    readings = Readings()
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for number in range(soft):
        (tmp_path / str(number)).write_text(str(number))
        assert readings.read(ONE, str(number), str(tmp_path / str(number))) == str(number).encode()
    assert len(descriptors(tmp_path)) <= soft // 2


def test_descriptors_above_1023_can_be_waited_for() -> None:
    one, other = socket.socketpair()
    high = os.dup2(one.fileno(), 1500)
    try:
        assert wire.readable([high], 0) == []
        other.send(b"x")
        assert wire.readable([high, one], 5) == [high, one]
    finally:
        os.close(high)
        one.close()
        other.close()


@pytest.mark.usefixtures("few_files")
def test_out_of_descriptors_is_an_error_and_not_a_file_that_is_missing(tmp_path: Path) -> None:
    readings, file, taken = Readings(), tmp_path / "max", []
    file.write_text("10")
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(StepError, match="too many open files"):
            readings.read(ONE, "max", str(file))
        os.close(taken.pop())
        assert readings.read(ONE, "max", str(file)) == b"10"
    finally:
        for fd in taken:
            os.close(fd)
