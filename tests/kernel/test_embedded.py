"""The embedded runtime on this machine: what a container is, sees and may do, and what its operations promise."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.drivers.embedded.inits import host_init
from orchestrator.errors import StepError
from orchestrator.model.desired import (
    BindMount,
    ContainerSpec,
    DirectoryRoot,
    Limits,
    Logs,
    Stack,
    StackSpec,
    Stop,
    TmpfsMount,
    Ulimit,
    VolumeMount,
)
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.model.observed import Phase
from orchestrator.supervisor.client import LaunchError
from tests.kernel.embedded_lab import Lab, until

pytestmark = pytest.mark.root
MIB = 1 << 20
SLEEP = ("sleep", "600")
BARE = ContainerSpec(rootfs="base", command=SLEEP, stop=Stop(signal="KILL"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


# what it is


def test_own_hostname_processes_and_root(lab: Lab) -> None:
    group = lab.group("web-1")
    text = lab.output("hostname; echo $$; ls /; cat /etc/hostname", group=group)
    lines = text.splitlines()
    assert lines[:2] == ["web-1", "1"]
    assert {"bin", "etc", "proc", "tmp", "usr"} <= set(lines)
    assert lines[-1] == "web-1"


def test_containers_of_a_group_share_addresses_and_ipc_but_not_processes(lab: Lab) -> None:
    group = lab.group("pair")
    first = lab.run(*SLEEP, group=group)
    second = lab.run(*SLEEP, group=group)
    links = {
        kind: {lab.exec(each, "readlink", f"/proc/self/ns/{kind}")[1] for each in (first, second)}
        for kind in NS
    }
    assert {kind for kind, found in links.items() if len(found) == 1} == {"net", "ipc", "uts", "user", "time"}
    assert lab.exec(second, "sh", "-c", "ls -d /proc/[0-9]* | wc -l")[1].strip() in ("3", "4")


NS = ("net", "ipc", "uts", "mnt", "pid", "cgroup", "user", "time")


def test_at_most_eight_capabilities_none_inherited_no_new_privileges_and_a_filter(lab: Lab) -> None:
    status = dict(
        line.split(":\t") for line in lab.output("cat /proc/self/status").splitlines() if ":\t" in line
    )
    assert int(status["CapBnd"], 16).bit_count() == 8
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16)
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_user_of_the_rootfs_has_its_groups_and_no_capabilities(lab: Lab) -> None:
    text = lab.output(
        "id -un; id -gn; grep CapEff /proc/self/status; echo $HOME", replace(BARE, user="www-data")
    )
    assert text.split() == ["www-data", "www-data", "CapEff:", "0000000000000000", "/var/www"]


def test_kernel_files_are_hidden_or_read_only(lab: Lab) -> None:
    script = """
    cat /proc/keys /proc/timer_list | wc -c
    ls /sys/firmware | wc -l
    for each in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/fs/cgroup/cgroup.procs; do
        (echo x > $each) 2>/dev/null && echo "wrote $each"
    done
    ls /proc/self/fd | wc -l
    """
    assert lab.output(script).split() == ["0", "0", "4"]  # 0, 1, 2 and ls's own


def test_env_workdir_and_command_line(lab: Lab) -> None:
    spec = replace(BARE, env={"A": "ü b", "PATH": "/usr/bin"}, workdir="/srv/new/place")
    assert lab.output('pwd; echo "$A"; echo $PATH; echo $HOSTNAME', spec).splitlines()[:3] == [
        "/srv/new/place",
        "ü b",
        "/usr/bin",
    ]


def test_read_only_root_with_a_writable_tmpfs(lab: Lab) -> None:
    spec = replace(
        BARE, read_only=True, workdir="/srv/made", mounts=(TmpfsMount(target="/scratch", size=MIB),)
    )
    script = "touch /x 2>/dev/null && echo wrote; touch /scratch/x && echo scratch; df -k /scratch | tail -1"
    words = lab.output(script, spec).split()
    assert words[0] == "scratch"
    assert "1024" in words


def test_volumes_and_binds_are_mounted_as_asked(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    volume = lab.volume("data")
    mounts = (
        VolumeMount(volume="data", target="/data"),
        BindMount(source=str(tmp_path / "file"), target="/srv/file", read_only=True),
    )
    script = "cat /srv/file; echo kept > /data/x; (echo y > /srv/file) 2>/dev/null || echo refused"
    assert lab.output(script, replace(BARE, mounts=mounts), volumes=(volume,)).splitlines() == [
        "from the hostrefused"
    ]
    assert Path(lab.volumes.path(volume), "x").read_text() == "kept\n"
    assert lab.output("cat /data/x", replace(BARE, mounts=mounts), volumes=(volume,)) == "kept\n"


def test_rlimits_are_set(lab: Lab) -> None:
    spec = replace(
        BARE, ulimits=(Ulimit(name="nofile", soft=100, hard=200), Ulimit(name="core", soft=0, hard=0))
    )
    assert lab.output("ulimit -Sn; ulimit -Hn; ulimit -c", spec).split() == ["100", "200", "0"]


@pytest.mark.skipif(host_init() is None, reason="no catatonit or tini on this host")
def test_init_reaps_and_passes_signals(lab: Lab) -> None:
    spec = replace(BARE, init=True, stop=Stop(signal="TERM", grace=5.0))
    target = lab.shell("echo up; exec sleep 600", spec)
    until(lambda: "up" in lab.logs(target))
    lab.driver.stop(target)
    (exit,) = lab.observe(target).exits
    assert exit.stopped
    assert exit.signal != 9


def test_output_and_exit_code_are_kept(lab: Lab) -> None:
    target = lab.shell("echo out; echo err >&2; exit 7")
    until(lambda: lab.observe(target).phase is Phase.EXITED)
    assert set(lab.logs(target).split()) == {"out", "err"}
    (exit,) = lab.observe(target).exits
    assert (exit.code, exit.signal, exit.stopped, exit.success) == (7, None, False, False)


# limits


def test_limits_change_while_it_runs_and_are_read_back(lab: Lab) -> None:
    limits = Limits(memory=64 * MIB, pids=50, cpus=0.5)
    target = lab.run(*SLEEP, spec=replace(BARE, limits=limits))
    before = lab.observe(target)
    assert before.actual == {"limits.memory": 64 * MIB, "limits.pids": 50, "limits.cpus": 0.5}
    new = Limits(memory=32 * MIB, cpu_weight=50)
    fields = ("limits.memory", "limits.pids", "limits.cpus", "limits.cpu_weight")
    lab.update(target, replace(BARE, limits=new), *fields)
    after = lab.observe(target)
    assert (after.pid, after.started) == (before.pid, before.started)
    assert after.actual == {"limits.memory": 32 * MIB, "limits.cpu_weight": 50}
    assert lab.driver.read_limits(target) == Limits(memory=32 * MIB, cpu_weight=50, swap=0, pids=4096)


def test_memory_limit_kills_and_says_so(lab: Lab) -> None:
    spec = replace(BARE, limits=Limits(memory=16 * MIB))
    target = lab.run("python3", "-c", "x = bytearray(200 * 1024 * 1024); print(sum(x))", spec=spec)
    until(lambda: lab.observe(target).phase is Phase.EXITED)
    (exit,) = lab.observe(target).exits
    assert exit.oom
    assert exit.signal == 9


def test_the_stacks_budget_holds_for_all(lab: Lab) -> None:
    lab.run(*SLEEP, spec=BARE)
    lab.update(lab.stack, StackSpec(limits=Limits(memory=512 * MIB)), "limits.memory")
    assert lab.observe(lab.stack).actual == {"limits.memory": 512 * MIB}
    lab.update(lab.stack, StackSpec(), "limits.memory")


# operations


def test_stop_is_the_signal_then_the_grace_then_kill(lab: Lab) -> None:
    polite = lab.shell(
        "trap 'echo bye; exit 0' INT; echo up; while :; do sleep 0.05; done",
        replace(BARE, stop=Stop(signal="INT")),
    )
    until(lambda: "up" in lab.logs(polite))
    lab.driver.stop(polite)
    (exit,) = lab.observe(polite).exits
    assert (exit.code, exit.stopped) == (0, True)
    deaf = lab.shell("trap '' TERM; echo up; sleep 600", replace(BARE, stop=Stop(signal="TERM", grace=0.2)))
    until(lambda: "up" in lab.logs(deaf))
    lab.driver.stop(deaf)
    (exit,) = lab.observe(deaf).exits
    assert (exit.signal, exit.stopped) == (9, True)
    assert exit.ended - exit.started < 5


def test_operations_can_be_repeated(lab: Lab) -> None:
    target = lab.run(*SLEEP, spec=BARE)
    pid = lab.observe(target).pid
    lab.driver.start(target)
    assert lab.observe(target).pid == pid
    lab.driver.stop(target)
    lab.driver.stop(target)
    lab.driver.delete(target)
    lab.driver.delete(target)
    assert target.id not in {each.id for each in lab.driver.observe("lab")}


def test_what_was_killed_can_be_started_again(lab: Lab) -> None:
    """The kernel remembers cgroup.kill, and would kill the next process that is born there."""
    target = lab.run(*SLEEP, spec=replace(BARE, stop=Stop(signal="TERM", grace=0.05)))
    lab.driver.stop(target)
    lab.driver.start(target)
    lab.exec(target, "true")
    assert lab.observe(target).phase is Phase.RUNNING
    assert len(lab.observe(target).exits) == 1


def test_a_restart_keeps_what_was_written(lab: Lab) -> None:
    target = lab.shell("cat /note 2>/dev/null; echo kept > /note", BARE)
    until(lambda: lab.observe(target).pid is None)
    lab.driver.start(target)
    until(lambda: len(lab.observe(target).exits) == 2)
    assert lab.logs(target) == "kept\n"
    assert lab.observe(target).restarts == 1


def test_delete_takes_everything_but_the_logs(lab: Lab) -> None:
    target = lab.shell("echo hello; mkdir -p /a/b/c; exec sleep 600", BARE)
    until(lambda: "hello" in lab.logs(target))
    pid = lab.observe(target).pid
    lab.driver.delete(target)
    assert not Path(f"/proc/{pid}").exists()
    assert not lab.layout.record(target).exists()
    assert not lab.layout.container_run(target.id).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{lab.layout.cgroup}/lab/*/{target.id}"))
    assert "hello" in lab.logs(target)


def test_a_killed_supervisor_changes_nothing(lab: Lab) -> None:
    target = lab.run(*SLEEP, spec=BARE)
    before = lab.observe(target)
    lab.supervisor.stop()
    assert lab.observe(target) == before
    lab.driver.stop(target)
    assert lab.observe(target).phase is Phase.EXITED


def test_exec_runs_as_the_container_does(lab: Lab) -> None:
    target = lab.run(*SLEEP, spec=replace(BARE, user="nobody", workdir="/tmp", env={"A": "1"}))
    assert lab.exec(target, "sh", "-c", "id -un; pwd; echo $A; exit 3") == (3, "nobody\n/tmp\n1\n")
    assert lab.exec(target, "id", "-un", user="root") == (0, "root\n")
    assert lab.exec(target, "sleep", "60", timeout=0.2)[0] == 124
    with pytest.raises(LaunchError, match='command "nope" not found'):
        lab.exec(target, "nope")


def test_many_at_once(lab: Lab) -> None:
    targets = [lab.create(BARE) for _ in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lab.driver.start, targets))
    pids = {lab.observe(each).pid for each in targets}
    assert len(pids) == 12
    assert None not in pids
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lab.driver.delete, targets))


def test_logs_get_another_size_while_it_runs(lab: Lab) -> None:
    target = lab.shell("while :; do echo 0123456789012345678901234567890123456789; sleep 0.001; done", BARE)
    pid = lab.observe(target).pid
    lab.update(target, replace(BARE, logs=Logs(max_size=4096, files=2)), "logs.max_size", "logs.files")
    folder = lab.layout.logs("lab", target.ref)
    until(lambda: (folder / "000002.log").exists() or len(list(folder.glob("*.log"))) > 1)
    assert lab.observe(target).pid == pid
    lab.driver.stop(target)


# what was interrupted, and what another boot left


def test_a_half_made_container_is_incomplete_and_can_be_deleted(lab: Lab) -> None:
    target = lab.create(BARE)
    (lab.layout.record(target) / "record.json").unlink()
    found = lab.observe(target)
    assert found.phase is Phase.INCOMPLETE
    lab.driver.delete(Incarnation("lab", found.ref, found.id))
    assert not lab.layout.record(target).exists()


def test_a_group_without_its_pins_is_not_in_effect_and_starts_again(lab: Lab) -> None:
    group = lab.group("pinned")
    assert lab.observe(group).phase is Phase.RUNNING
    for kind in ("net", "ipc", "uts"):
        subprocess.run(["umount", lab.layout.group_run(group.id) / kind], check=True)
    assert lab.observe(group).phase is Phase.CREATED
    lab.driver.start(group)
    assert lab.observe(group).phase is Phase.RUNNING
    lab.driver.stop(group)
    lab.driver.stop(group)
    assert lab.observe(group).phase is Phase.CREATED


def test_ends_outlive_a_reboot_and_so_does_what_the_power_cut_off(lab: Lab) -> None:
    """A reboot: the supervisor's process records are gone and the journal bears another boot's id."""
    ended, cut = lab.shell("exit 3", BARE), lab.run("sleep", "1000", spec=BARE)
    until(lambda: lab.observe(ended).phase is Phase.EXITED)
    pid = lab.observe(cut).pid
    assert pid is not None
    lab.supervisor.stop()
    os.kill(pid, signal.SIGKILL)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for each in (ended, cut):
        (lab.layout.container_run(each.id) / "process.json").unlink()
        journal = lab.layout.record(each) / "exits.jsonl"
        assert boot in journal.read_text()
        journal.write_text(journal.read_text().replace(boot, "0" * 36))
    until(lambda: lab.observe(cut).phase is Phase.EXITED)
    (last,) = lab.observe(ended).exits
    assert (last.code, last.earlier, lab.observe(ended).restarts) == (3, True, 0)
    (unknown,) = lab.observe(cut).exits
    assert (str(unknown), unknown.earlier) == ("unknown exit", True)
    lab.driver.start(ended)
    until(lambda: lab.observe(ended).pid is None)
    assert [(each.code, each.earlier) for each in lab.observe(ended).exits] == [(3, True), (3, False)]
    assert lab.observe(ended).restarts == 0


def test_a_stop_for_a_fault_is_told_with_the_exit_also_by_the_next_supervisor(lab: Lab) -> None:
    target = lab.run("sleep", "1000", spec=replace(BARE, stop=Stop(grace=0.0)))
    lab.driver.stop(target, fault="is unhealthy: no answer")
    for _ in range(2):
        (end,) = lab.observe(target).exits
        assert (end.stopped, end.forgiven, str(end)) == (True, False, "is unhealthy: no answer")
        lab.supervisor.stop()
        lab.supervisor.ensure()


# errors


def test_command_not_found_names_the_rootfs_and_leaves_a_failed_start(lab: Lab) -> None:
    target = lab.create(replace(BARE, command=("no-such-server",)))
    with pytest.raises(LaunchError, match='command "no-such-server" not found in rootfs "base"'):
        lab.driver.start(target)
    assert lab.observe(target).pid is None
    assert lab.observe(target).exits[-1].error == 'command "no-such-server" not found in rootfs "base"'


def test_a_missing_interpreter_is_named_at_the_start_and_afterwards(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("#!/no/such/interpreter\n")
    (tmp_path / "bin" / "tool").chmod(0o755)
    other = lab.rootfs("scripts", DirectoryRoot(path=os.fspath(tmp_path)))
    for command in ("tool", "/bin/tool"):
        target = lab.create(replace(BARE, rootfs="scripts", command=(command,)), base=other)
        said = '/bin/tool in rootfs "scripts" needs the interpreter /no/such/interpreter, which is missing'
        with pytest.raises(LaunchError, match=said):
            lab.driver.start(target)
        assert said in (lab.observe(target).exits[-1].error or "")


def test_wrong_architecture_names_the_rootfs(lab: Lab, tmp_path: Path) -> None:
    program = bytearray(64)
    program[:20] = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0" + b"\xf3\0"  # RISC-V
    (tmp_path / "server").write_bytes(bytes(program))
    (tmp_path / "server").chmod(0o755)
    other = lab.rootfs("riscv", DirectoryRoot(path=os.fspath(tmp_path)))
    target = lab.create(replace(BARE, rootfs="riscv", command=("/server",)), base=other)
    with pytest.raises(LaunchError, match=r'/server in rootfs "riscv" is a program for riscv64, and this'):
        lab.driver.start(target)


def test_unknown_user_names_the_rootfs(lab: Lab) -> None:
    target = lab.create(replace(BARE, user="postgres"))
    with pytest.raises(LaunchError, match=r'rootfs "base": .*postgres'):
        lab.driver.start(target)


def test_start_of_what_was_never_created_is_an_error(lab: Lab) -> None:
    with pytest.raises(StepError, match="no record of"):
        lab.driver.start(Incarnation("lab", Ref(Kind.CONTAINER, "a/b"), "f" * 12))


def test_check_names_every_problem_at_its_field(lab: Lab) -> None:
    ref = Ref(Kind.CONTAINER, "web-1/server")
    spec = replace(
        BARE,
        limits=Limits(cpuset="0,4095", cpus=1),
        stop=Stop(signal="NOPE"),
        mounts=(BindMount(source="/nonexistent", target="/x"), TmpfsMount(target="/proc/self/attr", size=1)),
    )
    found = {
        (each.field, each.message.split(":")[0])
        for each in lab.driver.check(Stack(name="s", resources={ref: spec}, needs={}))
    }
    assert ("limits.cpuset", "this host has no CPU 4095") in found
    assert ("stop.signal", "no signal is called 'NOPE'") in found
    assert ("mounts", "bind") in found
    assert ("mounts", "/proc/self/attr is the runtime's own and cannot be mounted over") in found
    assert not lab.driver.check(Stack(name="s", resources={ref: BARE}, needs={}))
