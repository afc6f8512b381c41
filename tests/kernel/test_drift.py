"""What somebody changes behind our back in cgroups, namespaces, mounts and our own files is seen by one look and mended by
one pass; the process goes on wherever it can."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.drivers.embedded.cgroups import Cgroups
from orchestrator.drivers.embedded.hierarchies import Hierarchies
from orchestrator.drivers.embedded.program import SHARED
from orchestrator.model.desired import IoLimit, Limits, Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import Observation, Phase
from orchestrator.plan.changes import Policy, Verb
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import facts, logs, start
from orchestrator.supervisor.client import Supervisor
from tests.contract.worlds import World, embedded_world, group_of
from tests.kernel.embedded_lab import until
from tests.properties.stacks import BUDGET, NAME, container, group, stack

pytestmark = pytest.mark.root
MIB = 1 << 20
WEB, PLAIN = container("web"), container("plain")
UPDATE, RESTART = Verb.UPDATE, Verb.RESTART
LIMITS = Limits(
    memory=64 * MIB, cpus=0.5, cpu_weight=50, cpuset="0", pids=50, io=(IoLimit(read_bps=50 * MIB),)
)
SCRIPT = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done"


@dataclass
class Place:
    """A stack of two groups that are settled when a test begins: `web` with limits, `plain` without."""

    world: World
    layout: Layout
    wish: Stack

    def __post_init__(self) -> None:
        self.cgroups = Cgroups(self.layout, Hierarchies.detect())
        self.supervisor = Supervisor(self.layout)

    def seen(self, ref: Ref) -> Observation:
        found = self.world.seen(ref)
        assert found is not None
        return found

    def names(self, ref: Ref) -> tuple[str, ...]:
        if ref.kind is Kind.STACK:
            return (NAME,)
        if ref.kind is Kind.GROUP:
            return NAME, self.seen(ref).id
        return NAME, self.seen(Ref(Kind.GROUP, ref.name.partition("/")[0])).id, self.seen(ref).id

    def file(self, ref: Ref, controller: str, v2: str, v1: str) -> Path:
        name = v2 if self.cgroups.versions[controller] == 2 else v1
        return Path(self.cgroups.folder(self.names(ref), controller), name)

    def folder(self, ref: Ref) -> Path:
        return self.layout.state / "stacks" / NAME / ref.kind / self.seen(ref).id

    def mends(self, ref: Ref, verb: Verb, what: str) -> None:
        """One pass changes `ref` alone, for this reason, and then there is nothing left to do."""
        before = {each.ref: each.pid for each in self.world.observed()}
        done = self.world.apply(self.wish)
        told = [(each.ref, each.verb, each.reason) for each in done.changes]
        assert told == [(ref, verb, f"{what} changed behind our back")]
        assert self.world.plan(self.wish).changes == ()
        after = {each.ref: each.pid for each in self.world.observed()}
        assert (before == after) is (verb is UPDATE)

    def mends_nothing(self) -> None:
        assert self.world.plan(self.wish).empty

    def supervisor_pid(self) -> int:
        found = start.answer(str(self.layout.supervisor_socket))
        assert found is not None
        return int(found["pid"])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: facts.start_ticks(pid) is None)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("drift")
    wish = stack(
        group_of("web", "sh", "-c", SCRIPT, more={"limits": LIMITS}), group_of("plain"), memory=512 * MIB
    )
    with embedded_world(folder) as world, world.pool:
        try:
            world.apply(wish)
            yield Place(world, Layout.at(folder), wish)
        finally:
            for _ in range(3):
                if world.run(world.plan(None, Policy(prune_data=True))) == []:
                    break
        assert world.observed() == ()


@pytest.fixture
def place(settled: Place) -> Place:
    until(lambda: settled.world.apply(settled.wish).empty)
    return settled


@pytest.mark.parametrize(
    ("controller", "v2", "v1", "text", "what"),
    [
        ("memory", "memory.max", "memory.limit_in_bytes", str(32 * MIB), "limits.memory"),
        ("memory", "memory.swap.max", "memory.memsw.limit_in_bytes", str(128 * MIB), "limits.swap"),
        ("pids", "pids.max", "pids.max", "max", "limits.pids"),
        ("cpu", "cpu.max", "cpu.cfs_quota_us", "20000", "limits.cpus"),
        ("cpu", "cpu.weight", "cpu.shares", "300", "limits.cpu_weight"),
        ("cpuset", "cpuset.cpus", "cpuset.cpus", "0-1", "limits.cpuset"),
    ],
)
def test_a_limit_that_was_changed(
    place: Place, controller: str, v2: str, v1: str, text: str, what: str
) -> None:
    if place.cgroups.versions[controller] is None:
        pytest.skip(f"this kernel has no {controller} controller")
    if controller == "cpuset" and os.cpu_count() == 1:
        pytest.skip("one CPU: there is no other set")
    file = place.file(WEB, controller, v2, v1)
    if not file.exists():
        pytest.skip(f"this kernel has no {file.name}")
    before = file.read_text()
    file.write_text(text)
    place.mends(WEB, UPDATE, what)
    assert file.read_text() == before


def test_an_io_limit_that_was_taken_away(place: Place) -> None:
    if place.cgroups.versions["io"] is None:
        pytest.skip("this kernel has no io controller")
    file = place.file(WEB, "io", "io.max", "blkio.throttle.read_bps_device")
    device, _ = file.read_text().split()[:2]
    file.write_text(f"{device} rbps=max" if file.name == "io.max" else f"{device} 0")
    place.mends(WEB, UPDATE, "limits.io")
    assert str(50 * MIB) in file.read_text()


def test_our_default_limit_of_processes_and_the_stacks_budget(place: Place) -> None:
    file = place.file(PLAIN, "pids", "pids.max", "pids.max")
    for text in ("max", "100"):
        file.write_text(text)
        place.mends(PLAIN, UPDATE, "limits.pids")
        assert file.read_text() == "4096\n"
    budget = place.file(BUDGET, "memory", "memory.max", "memory.limit_in_bytes")
    budget.write_text(str(1024 * MIB)) if "max" in budget.name else None
    if "max" not in budget.name:
        place.file(BUDGET, "memory", "", "memory.memsw.limit_in_bytes").write_text(str(2048 * MIB))
        budget.write_text(str(1024 * MIB))
    done = place.world.apply(place.wish)
    assert [(each.ref, each.verb) for each in done.changes] == [(BUDGET, UPDATE)]
    assert place.world.plan(place.wish).empty and budget.read_text() == f"{512 * MIB}\n"


def test_a_process_that_was_moved_out_of_its_cgroup(place: Place) -> None:
    pid = place.seen(WEB).pid
    for mount in {Path(place.cgroups.base(each)).parent for each in (None, "memory", "pids")}:
        (mount / "cgroup.procs").write_text(str(pid))
    place.mends(WEB, UPDATE, "cgroup")
    assert str(pid) in Path(place.cgroups.folder(place.names(WEB)), "cgroup.procs").read_text().split()
    assert f"/{NAME}/" in next(
        line
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if ":pids" in line or "0::" in line
    )


def test_a_cgroup_that_was_removed_under_a_running_container(place: Place) -> None:
    pid, folder = place.seen(PLAIN).pid, Path(place.cgroups.folder(place.names(PLAIN)))
    (Path(place.cgroups.base()).parent / "cgroup.procs").write_text(str(pid))
    until(lambda: removed(folder))
    # On v2 the limit goes with it; on v1 it lies in another hierarchy.
    place.mends(PLAIN, UPDATE, "cgroup, limits.pids" if place.cgroups.versions["pids"] == 2 else "cgroup")
    assert (folder / "cgroup.procs").read_text() == f"{pid}\n"


def removed(folder: Path) -> bool:
    with suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def test_a_container_that_was_moved_out_is_stopped_as_any_other(place: Place) -> None:
    pid = place.seen(PLAIN).pid
    (Path(place.cgroups.base()).parent / "cgroup.procs").write_text(str(pid))
    place.world.driver(PLAIN).stop(place.world.incarnation(PLAIN))
    assert place.seen(PLAIN).phase is Phase.EXITED and not Path(f"/proc/{pid}").exists()
    assert place.seen(PLAIN).exits[-1].stopped


def test_a_controller_that_was_disabled_above(place: Place) -> None:
    if place.cgroups.versions["pids"] != 2:
        pytest.skip("needs the pids controller on cgroup v2")
    level = Path(place.cgroups.folder(place.names(group("web"))))
    (level / "cgroup.subtree_control").write_text("-pids")
    place.mends(WEB, UPDATE, "limits.pids")
    assert place.file(WEB, "pids", "pids.max", "").read_text() == "50\n"


def test_pins_that_were_unmounted_under_a_running_container(place: Place) -> None:
    run = place.layout.group_run(place.seen(group("web")).id)
    inside = [os.readlink(f"/proc/{place.seen(WEB).pid}/ns/{kind}") for kind in SHARED]
    subprocess.run(["umount", run / "net", run / "uts"], check=True)
    (run / "uts").unlink()
    place.mends(group("web"), UPDATE, "namespaces")
    assert [f"{kind}:[{(run / kind).stat().st_ino}]" for kind in SHARED] == inside


def test_pins_that_were_unmounted_where_nothing_runs(place: Place) -> None:
    place.world.driver(WEB).stop(place.world.incarnation(WEB))
    run = place.layout.group_run(place.seen(group("web")).id)
    subprocess.run(["umount", run / "ipc"], check=True)
    done = place.world.apply(place.wish)
    assert {group("web"): Verb.START, WEB: Verb.START}.items() <= {
        e.ref: e.verb for e in done.changes
    }.items()
    assert place.seen(WEB).phase is Phase.RUNNING


@pytest.mark.parametrize("point", ["/proc/sys", "/proc/keys", "/etc/hosts", "/sys"])
def test_a_mount_inside_that_was_unmounted(place: Place, point: str) -> None:
    pid = place.seen(WEB).pid
    place.world.plan(place.wish)  # watched by now
    subprocess.run(["nsenter", "-t", str(pid), "-m", "-p", "umount", "-l", point], check=True)
    place.mends(WEB, RESTART, "mounts")
    inside = Path(f"/proc/{place.seen(WEB).pid}/mountinfo").read_text()
    assert f" {point} " in inside


def test_a_mount_that_was_unmounted_before_we_looked_for_the_first_time(place: Place) -> None:
    pid = place.seen(PLAIN).pid
    subprocess.run(["nsenter", "-t", str(pid), "-m", "-p", "umount", "-l", "/proc/sys"], check=True)
    driver = place.world.driver(PLAIN)
    other = type(driver)(
        place.layout,
        place.supervisor,
        roots=driver._containers._roots,  # type: ignore[attr-defined]
        volumes=driver._containers._volumes,  # type: ignore[attr-defined]
        network=driver._groups._network,  # type: ignore[attr-defined]
    )
    found = next(each for each in other.observe(NAME) if each.ref == PLAIN)
    assert found.broken == ("mounts",)
    place.mends(PLAIN, RESTART, "mounts")


@pytest.mark.parametrize("gone", [("upper",), ("work",), ("upper", "work")])
def test_a_writable_layer_that_was_deleted(place: Place, gone: tuple[str, ...]) -> None:
    for name in gone:
        shutil.rmtree(place.folder(WEB) / name)
    place.mends(WEB, RESTART, "writable layer")
    pid = place.seen(WEB).pid
    Path(f"/proc/{pid}/root/tmp-file").write_text("x")
    assert (place.folder(WEB) / "upper/tmp-file").read_text() == "x"


def test_a_run_folder_that_was_deleted_costs_no_process_and_no_log(place: Place) -> None:
    pid, id = place.seen(WEB).pid, place.seen(WEB).id
    shutil.rmtree(place.layout.container_run(id))
    place.mends(WEB, UPDATE, "process record")
    kill(place.supervisor_pid())
    assert place.supervisor.states([id])[id].pid == pid
    seen = lines(place)
    until(lambda: len(lines(place)) > len(seen) + 3)
    numbers = [int(each.split()[-1]) for each in lines(place) if each.startswith("line ")]
    last = numbers[max(n for n, each in enumerate(numbers) if each == 1) :]
    assert last == list(range(1, len(last) + 1))
    place.mends_nothing()


def lines(place: Place) -> list[str]:
    """What `web` has printed, as `logs` reads it."""
    return [each.text.decode() for each in logs.read(str(place.layout.logs(NAME, WEB)))]


def test_a_process_that_no_supervisor_knows_gets_a_new_one(place: Place) -> None:
    old = place.seen(PLAIN)
    shutil.rmtree(place.layout.container_run(old.id))
    kill(place.supervisor_pid())
    until(place.supervisor.alive)
    assert place.seen(PLAIN).pid == old.pid
    place.mends(PLAIN, RESTART, "process record")
    assert not Path(f"/proc/{old.pid}").exists()


@pytest.mark.parametrize("what", ["record.json", "."])
def test_a_record_that_was_deleted_leaves_no_orphan_and_no_duplicate(place: Place, what: str) -> None:
    old, path = place.seen(PLAIN), place.folder(PLAIN) / what
    path.unlink() if path.is_file() else shutil.rmtree(path)
    made = place.world.plan(place.wish)
    gone = Ref(Kind.CONTAINER, old.id)
    assert {each.ref: each.verb for each in made.changes} == {PLAIN: Verb.CREATE, gone: Verb.DELETE}
    deleted = next(step.number for step in made.steps if step.ref == gone)
    assert all(
        deleted in step.after for step in made.steps if step.ref == PLAIN and step.op.value == "create"
    )
    place.world.apply(place.wish)
    assert place.world.plan(place.wish).empty and not Path(f"/proc/{old.pid}").exists()
    assert not (place.layout.container_run(old.id)).exists()
    inside = Path(place.cgroups.folder(place.names(group("plain"))))
    assert [each.name for each in inside.iterdir() if each.is_dir()] == [place.seen(PLAIN).id]


def test_a_group_whose_record_was_deleted_is_made_anew(place: Place) -> None:
    old, pid = place.seen(group("plain")), place.seen(PLAIN).pid
    shutil.rmtree(place.folder(group("plain")))
    for _ in range(3):
        if place.world.apply(place.wish).empty:
            break
    assert place.world.plan(place.wish).empty and not Path(f"/proc/{pid}").exists()
    assert not place.layout.group_run(old.id).exists()
    assert not Path(place.cgroups.folder((NAME, old.id))).exists()
    assert str(place.layout.group_run(old.id)) not in Path("/proc/self/mountinfo").read_text()


def test_what_is_not_ours_is_not_touched(place: Place) -> None:
    foreign = Path(place.cgroups.base()).with_name("not-ours")
    foreign.mkdir()
    try:
        assert place.world.plan(place.wish).empty
        assert place.world.driver(BUDGET).stacks() == {NAME}
        assert foreign.is_dir()
    finally:
        foreign.rmdir()
