"""Cgroup folders and limits on this machine's own hierarchies, of any version; all below a folder of the test's."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drivers.embedded.cgroups import Cgroups, Names
from orchestrator.drivers.embedded.devices import disk_number
from orchestrator.drivers.embedded.enforced import Enforced
from orchestrator.drivers.embedded.hierarchies import Hierarchies
from orchestrator.drivers.embedded.preflight import missing
from orchestrator.drivers.embedded.readings import Readings
from orchestrator.errors import StepError
from orchestrator.model.desired import IoLimit, Limits
from orchestrator.ports.layout import Layout

pytestmark = pytest.mark.root
MIB = 1 << 20
STACK, GROUP, CONTAINER = ("shop",), ("shop", "a" * 12), ("shop", "a" * 12, "b" * 12)


@pytest.fixture
def cgroups(tmp_path: Path) -> Iterator[Cgroups]:
    found = Cgroups(Layout.at(tmp_path), Hierarchies.detect())
    yield found
    found.remove(STACK)


@pytest.fixture
def process() -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child.pid
        child.kill()


def read(cgroups: Cgroups, names: Names, limits: Limits) -> dict[str, Any]:
    return Enforced(cgroups, Readings()).read(names, limits)


def join(cgroups: Cgroups, pid: int) -> None:
    for folder in (cgroups.folder(CONTAINER), *cgroups.joins(CONTAINER)):
        Path(folder, "cgroup.procs").write_text(str(pid))


def needs(cgroups: Cgroups, *controllers: str) -> None:
    for each in controllers:
        if cgroups.versions[each] is None:
            pytest.skip(f"this kernel has no {each} controller")


def test_limits_are_read_back_as_they_were_wished(cgroups: Cgroups) -> None:
    needs(cgroups, "cpu", "memory", "pids", "cpuset")
    limits = Limits(cpus=0.3333333, cpu_weight=250, cpuset="0", memory=64 * MIB + 1, swap=16 * MIB, pids=77)
    cgroups.make(CONTAINER, limits)
    assert read(cgroups, CONTAINER, limits) == {
        "limits.cpus": 0.3333333,
        "limits.cpu_weight": 250,
        "limits.cpuset": "0",
        "limits.memory": 64 * MIB + 1,
        "limits.swap": 16 * MIB,
        "limits.pids": 77,
    }


def test_what_somebody_else_wrote_is_read_as_it_is(cgroups: Cgroups) -> None:
    needs(cgroups, "pids", "memory")
    limits = Limits(pids=77, memory=64 * MIB)
    cgroups.make(CONTAINER, limits)
    Path(cgroups.folder(CONTAINER, "pids"), "pids.max").write_text("78")
    file = "memory.max" if cgroups.versions["memory"] == 2 else "memory.limit_in_bytes"
    Path(cgroups.folder(CONTAINER, "memory"), file).write_text(str(32 * MIB))
    assert read(cgroups, CONTAINER, limits) == {"limits.pids": 78, "limits.memory": 32 * MIB}


def test_memory_and_swap_are_raised_lowered_and_taken_away(cgroups: Cgroups) -> None:
    needs(cgroups, "memory")
    cgroups.make(CONTAINER, Limits(memory=64 * MIB))
    for limits in (
        Limits(memory=256 * MIB, swap=64 * MIB),
        Limits(memory=32 * MIB),
        Limits(memory=32 * MIB, swap=512 * MIB),
        Limits(memory=128 * MIB, swap=0),
    ):
        cgroups.apply(CONTAINER, limits)
        wished = {"limits.memory": limits.memory} | (
            {} if limits.swap is None else {"limits.swap": limits.swap}
        )
        assert read(cgroups, CONTAINER, limits) == wished
    cgroups.apply(CONTAINER, Limits())
    assert read(cgroups, CONTAINER, Limits(memory=1, swap=1)) == {"limits.memory": None, "limits.swap": None}


def test_a_container_has_a_limit_of_processes_without_asking(cgroups: Cgroups) -> None:
    needs(cgroups, "pids")
    cgroups.make(CONTAINER, Limits())
    assert Path(cgroups.folder(CONTAINER, "pids"), "pids.max").read_text().strip() == "4096"


def test_a_new_limit_reaches_what_runs_already(cgroups: Cgroups, process: int) -> None:
    needs(cgroups, "memory", "pids")
    cgroups.make(CONTAINER, Limits())
    join(cgroups, process)
    cgroups.apply(CONTAINER, Limits(memory=64 * MIB, pids=50))
    assert str(process) in Path(cgroups.folder(CONTAINER, "memory"), "cgroup.procs").read_text().split()


def test_a_new_budget_of_the_stack_reaches_what_runs_already(cgroups: Cgroups, process: int) -> None:
    needs(cgroups, "memory")
    cgroups.make(CONTAINER, Limits())
    join(cgroups, process)
    cgroups.apply(STACK, Limits(memory=512 * MIB))
    path = next(
        line.split(":")[2]
        for line in Path(f"/proc/{process}/cgroup").read_text().splitlines()
        if line.split(":")[1] == ("memory" if cgroups.versions["memory"] == 1 else "")
    )
    assert f"{cgroups.folder(STACK, 'memory').rsplit('/', 2)[1]}/shop" in path
    assert read(cgroups, STACK, Limits(memory=512 * MIB)) == {"limits.memory": 512 * MIB}


def test_joins_only_folders_that_exist(cgroups: Cgroups) -> None:
    cgroups.make(GROUP, Limits(memory=64 * MIB))
    cgroups.make(CONTAINER, Limits())
    for folder in cgroups.joins(CONTAINER):
        assert os.path.isdir(folder)
    if cgroups.versions["memory"] == 1:
        assert cgroups.folder(GROUP, "memory") in cgroups.joins(CONTAINER)


def test_kill_ends_everything_in_it_and_remove_leaves_nothing(cgroups: Cgroups) -> None:
    cgroups.make(CONTAINER, Limits(memory=64 * MIB))
    with subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600 & wait"]) as child:
        join(cgroups, child.pid)
        cgroups.kill(CONTAINER)
        assert child.wait(timeout=10) == -signal.SIGKILL
    cgroups.remove(STACK)
    for mount in {cgroups.host.unified, *cgroups.host.v1.values()}:
        assert not list(Path(str(mount)).glob(f"{os.path.basename(cgroups.base())}*"))


def test_io_limit_is_written_for_the_disk_that_holds_our_state(cgroups: Cgroups) -> None:
    needs(cgroups, "io")
    try:
        device = disk_number(None, "/")
    except ValueError as error:
        pytest.skip(str(error))
    limits = Limits(io=(IoLimit(read_bps=50 * MIB, write_iops=100),))
    layout_disk = disk_number(None, os.fspath(cgroups._layout.state))
    cgroups.make(CONTAINER, limits)
    assert read(cgroups, CONTAINER, limits) == {"limits.io": [{"read_bps": 50 * MIB, "write_iops": 100}]}
    cgroups.apply(CONTAINER, Limits())
    assert read(cgroups, CONTAINER, limits) == {"limits.io": []}
    assert device.count(":") == layout_disk.count(":") == 1


def test_io_limit_without_a_device_says_why(cgroups: Cgroups) -> None:
    needs(cgroups, "io")
    with pytest.raises(StepError, match="/dev/null is not a block device"):
        cgroups.make(CONTAINER, Limits(io=(IoLimit(device="/dev/null", read_bps=1),)))


def test_make_is_idempotent_and_drops_what_is_not_asked_for_any_more(cgroups: Cgroups) -> None:
    needs(cgroups, "cpu")
    cgroups.make(CONTAINER, Limits(cpus=0.5, pids=9))
    cgroups.make(CONTAINER, Limits(pids=9))
    assert read(cgroups, CONTAINER, Limits(cpus=0.5, pids=9)) == {"limits.cpus": None, "limits.pids": 9}


def test_missing_controllers_are_named() -> None:
    host = Hierarchies(unified="/nowhere", v2=frozenset({"pids"}), v1={"memory": "/nowhere"})
    limits = Limits(cpus=1, memory=1, memory_high=1, pids=1, swap=5, io=(IoLimit(read_bps=1),))
    found = dict(missing(host, limits))
    assert set(found) == {"limits.cpus", "limits.memory_high", "limits.swap", "limits.io"}
    assert "no cpu cgroup controller" in found["limits.cpus"]
    assert not dict(missing(host, Limits(memory=1, swap=0, pids=1)))
