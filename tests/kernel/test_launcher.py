"""What a launched process finds, seen from inside: its root, descriptors, privileges, limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.supervisor import program as ops
from orchestrator.supervisor.client import LaunchError
from orchestrator.supervisor.kernel import mounts
from orchestrator.supervisor.program import Program
from tests.kernel.supervisor_lab import ENV, Lab, lab

pytestmark = pytest.mark.root

LOOK = r"""
import ctypes, errno, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def refused(number, *arguments):
    return errno.errorcode.get(ctypes.get_errno()) if libc.syscall(number, *arguments) < 0 else "allowed"
def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
here = "/proc/self/fd/"
fds = {fd: os.readlink(here + fd) for fd in os.listdir(here) if os.path.lexists(here + fd)}
print(json.dumps({
    "pid": os.getpid(), "fds": fds, "sid": os.getsid(0), "cwd": os.getcwd(), "host": socket.gethostname(),
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "home": os.environ.get("HOME"),
    "env": sorted(os.environ), "umask": os.umask(0),
    "caps": [status[each] for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "nnp": status["NoNewPrivs"], "seccomp": status["Seccomp"],
    "ignored": status["SigIgn"], "blocked": status["SigBlk"],
    "nofile": __import__("resource").getrlimit(7), "root": sorted(os.listdir("/")),
    "unshare": refused(272, 0x10000000), "clone3": refused(435, 0, 0), "bpf": refused(321, 0, 0, 0),
    "keyctl": refused(250, 0, 0, 0), "io_uring": refused(425, 1, 0), "mount": refused(165, 0, 0, 0, 0, 0),
    "future": refused(1000), "clone": refused(56, 0x10000011, 0, 0, 0, 0),
    "alg": attempt(socket.socket, 38, socket.SOCK_SEQPACKET), "vsock": attempt(socket.socket, 40, 1),
    "inet": attempt(socket.socket, 2, 1),
    "kcore": os.path.exists("/proc/kcore") and open("/proc/kcore").read(),
    "acpi": os.listdir("/proc/acpi") if os.path.exists("/proc/acpi") else [],
    "sysctl": attempt(os.open, "/proc/sys/kernel/hostname", os.O_WRONLY), "usr": attempt(os.mkdir, "/usr/x"),
    "mounts": [line.split()[4] for line in open("/proc/self/mountinfo")],
    "cgroup": open("/proc/self/cgroup").read().splitlines()[-1],
    "stdin": os.fstat(0).st_rdev, "own_log": attempt(os.open, "/proc/self/fd/1", os.O_WRONLY),
}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("launcher")) as made:
        yield made


@pytest.fixture(scope="module")
def seen(place: Lab) -> dict[str, object]:
    state, lines = place.run(place.full("python3", "-c", LOOK), "seen")
    assert state.exits[-1].code == 0, lines
    found: dict[str, object] = json.loads(lines[0])
    return found


def test_only_three_descriptors_are_inside(seen: dict[str, object]) -> None:
    fds = seen["fds"]
    assert isinstance(fds, dict)
    assert set(fds) == {"0", "1", "2"}  # that of the listing itself was closed again
    assert fds["0"] == "/dev/null"
    assert seen["stdin"] == os.makedev(1, 3)


def test_the_process_is_fresh(seen: dict[str, object]) -> None:
    assert (seen["pid"], seen["sid"], seen["cwd"], seen["host"]) == (1, 1, "/tmp", "lab")
    assert seen["umask"] == 0o022
    assert seen["nofile"] == [512, 512]
    assert seen["env"] == ["HOME", "LC_CTYPE", "PATH"]  # LC_CTYPE is python's own
    assert seen["ignored"] == "0000000001001000"  # PIPE and XFSZ: the python inside ignores them
    assert seen["blocked"] == "0000000000000000"


def test_signals_are_not_ignored(place: Lab) -> None:
    _, lines = place.run(place.full("grep", "SigIgn", "/proc/self/status"), "signals")
    assert lines == ["SigIgn:\t0000000000000000"]


def test_privileges_are_those_asked_for(seen: dict[str, object]) -> None:
    eight = "00000000000004fb"
    assert seen["caps"] == ["0" * 16, eight, eight, eight, "0" * 16]
    assert (seen["nnp"], seen["seccomp"]) == ("1", "2")


def test_the_filter_refuses(seen: dict[str, object]) -> None:
    for name in ("unshare", "bpf", "keyctl", "io_uring", "mount", "clone", "alg", "vsock"):
        assert seen[name] == "EPERM", name
    assert seen["clone3"] == "ENOSYS"
    assert seen["future"] == "ENOSYS"
    assert seen["inet"] == "allowed"


def test_the_host_is_out_of_sight(seen: dict[str, object], place: Lab) -> None:
    assert seen["kcore"] in ("", False)
    assert seen["acpi"] == []
    assert seen["sysctl"] == "EROFS"
    assert seen["usr"] == "EROFS"
    assert str(place.folder) not in str(seen["mounts"])
    assert seen["cgroup"] == "0::/"
    assert seen["own_log"] == "allowed"


def test_a_named_user_of_the_rootfs(place: Lab) -> None:
    _, lines = place.run(place.full("python3", "-c", LOOK, user="web"), "user")
    found = json.loads(lines[0])
    assert (found["uid"], found["gid"]) == ([1000] * 3, [1001] * 3)
    assert (found["groups"], found["home"]) == ([1001, 1002], "/home/web")
    assert found["caps"][:3] == ["0" * 16] * 3
    assert found["own_log"] == "allowed"


def test_writes_go_to_the_upper_layer(place: Lab) -> None:
    state, lines = place.run(place.full("sh", "-c", "echo x > /etc/made && cat /etc/made"), "writes")
    assert (state.exits[-1].code, lines) == (0, ["x"])
    assert (place.folder / "upper/etc/made").read_text() == "x\n"
    assert not (place.rootfs / "etc/made").exists()


def test_the_interpreter_inside_reach_is_a_sealed_copy(place: Lab) -> None:
    _, supervisor = place.pids()
    exe = f"/proc/{supervisor}/exe"
    assert os.readlink(exe).startswith("/memfd:")
    with pytest.raises(OSError):
        os.open(exe, os.O_WRONLY)


def test_a_script_whose_interpreter_is_proc_self_exe_gets_the_copy(place: Lab) -> None:
    script = place.rootfs / "trick"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    before = Path("/usr/bin/python3").read_bytes()
    place.run(place.full("/trick"), "trick")
    assert Path("/usr/bin/python3").read_bytes() == before


# errors: operation, call, argument, errno


def failing(place: Lab, *operations: ops.Operation, new: tuple[str, ...] = ("mnt",)) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        place.launch("failing", Program(new=new, operations=operations))
    state = place.state("failing")
    assert state.pid is None
    assert state.exits[-1].error == caught.value.message
    return caught.value


RUN = ops.Execute(argv=("true",), env=ENV)


@pytest.mark.parametrize(
    ("operation", "call", "argument", "code"),
    [
        (ops.JoinCgroup(path="/no/cgroup"), "write", "/no/cgroup/cgroup.procs", 2),
        (ops.JoinNamespace(kind="net", path="/no/net"), "open", "/no/net", 2),
        (ops.JoinNamespace(kind="net", path="/dev/null"), "setns", "/dev/null", 22),
        (ops.JoinNamespace(kind="odd", path="/dev/null"), "setns", "odd", 22),
        (ops.NewNamespace(kind="odd"), "setns", "odd", 22),
        (ops.PinNamespace(kind="net", path="/no/pin"), "open", "/no/pin", 2),
        (ops.SetSysctl(name="net.no.such", value="1"), "write", "/proc/sys/net/no/such", 2),
        (ops.SetSysctl(name="../self/comm", value="1"), "open", "../self/comm", 22),
        (ops.MountOverlay(lowers=("/no/lower", "/no"), target="/mnt"), "mount", "overlay /mnt", 2),
        (ops.EnterRoot(path="/no/root"), "open", "/no/root", 2),
        (ops.MakeDirectory(path="/x"), "openat2", "", 22),
        (ops.PivotRoot(), "openat2", "", 22),
        (ops.SetRlimit(name="odd", soft=1, hard=1), "setrlimit", "odd", 22),
        (ops.LimitCapabilities(keep=("ODD",)), "capset", "ODD", 22),
        (ops.LoadSeccomp(filter="AAAA"), "seccomp", "a filter of 3 bytes", 22),
        (ops.Execute(argv=(), env=()), "execve", "", 22),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | int) else "",
)
def test_a_failing_operation_names_itself(
    place: Lab, operation: ops.Operation, call: str, argument: str, code: int
) -> None:
    error = failing(place, ops.PrivateMounts(), operation, RUN)
    assert (error.operation, error.call, error.argument, error.errno) == (
        type(operation).__name__,
        call,
        argument,
        code,
    )


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_symlink_instead_of_a_kernel_folder_is_refused(place: Lab, tmp_path: Path, name: str) -> None:
    lower = tmp_path / "lower"
    for each in {"proc", "sys", "dev", "usr", "elsewhere"} - {name}:
        (lower / each).mkdir(parents=True)
    (lower / name).symlink_to("/elsewhere")
    error = failing(place, *place.root(lower=lower, upper=False), RUN)
    assert error.operation == "MountFilesystem"
    assert f"/{name} of the rootfs must be an ordinary directory" in error.message


@pytest.mark.parametrize(
    "link", ["/", "/../../..", "../../../../../../../..", "/proc/self/root", "/proc/1/root", "/proc/self/cwd"]
)
def test_no_symlink_of_a_rootfs_leads_a_mount_out(place: Lab, tmp_path: Path, link: str) -> None:
    (place.folder / "victim").mkdir(exist_ok=True)
    inside = (
        ops.MakeSymlink(path="/escape", destination=link),
        ops.MakeDirectory(path=f"/escape{place.folder}/victim/made"),
    )
    program = place.full("true", middle=inside)
    try:
        place.run(program, "escape")
    except LaunchError as error:
        assert error.operation == "MakeDirectory", error.message
    assert not (place.folder / "victim/made").exists()


def test_a_file_is_mounted_in_the_place_of_a_link_that_leads_nowhere(place: Lab, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    inside = (
        ops.MakeSymlink(path="/etc/resolv.conf", destination="../run/systemd/resolve/stub-resolv.conf"),
        ops.MountBind(source=str(tmp_path / "resolv.conf"), target="/etc/resolv.conf", flags=("ro",)),
    )
    _, lines = place.run(place.full("cat", "/etc/resolv.conf", middle=inside), "dangling")
    assert lines == ["nameserver 192.0.2.1"]


def test_a_link_that_leads_nowhere_stays_in_what_is_mounted(place: Lab, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/link").symlink_to("nowhere")
    (tmp_path / "file").touch()
    inside = (
        ops.MountBind(source=str(tmp_path / "theirs"), target="/data"),
        ops.MountBind(source=str(tmp_path / "file"), target="/data/link"),
    )
    with pytest.raises(LaunchError, match="/data/link: a symlink that leads nowhere"):
        place.run(place.full("true", middle=inside), "theirs")
    assert (tmp_path / "theirs/link").is_symlink()
    assert list((tmp_path / "theirs").iterdir()) == [tmp_path / "theirs/link"]


def test_paths_with_dots_resolve_while_others_rename(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    busy = "import os, sys\nos.chdir(sys.argv[1])\nwhile True: os.rename('x', 'y'), os.rename('y', 'x')"
    (tmp_path / "x").mkdir()
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    with subprocess.Popen([sys.executable, "-c", busy, str(tmp_path)]) as other:
        try:
            for _ in range(3000):
                os.close(mounts.open_beneath(root, "a/../b/../" * 20, os.O_PATH))
        finally:
            other.kill()
            os.close(root)


def test_nothing_is_mounted_over_procfs(place: Lab) -> None:
    made = ops.MountFilesystem(type="tmpfs", target="/proc/sys")
    error = failing(place, *place.root(), made, RUN, new=("mnt", "pid"))
    assert error.message == "nothing may be mounted at /proc/sys"


def test_root_inside_cannot_change_a_device_of_the_host(place: Lab) -> None:
    before = os.stat("/dev/zero").st_mode
    look = (
        "stat -c %t:%T:%a /dev/zero; chmod 600 /dev/zero; stat -c %a /dev/zero; head -c 1 /dev/zero | wc -c"
    )
    _, lines = place.run(place.full("sh", "-c", look), "device")
    assert lines == ["1:5:666", "600", "1"]
    assert os.stat("/dev/zero").st_mode == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("no-such",), 'command "no-such" not found'),
        (("/no/such",), 'command "/no/such" not found'),
        (("/etc",), "/etc is a directory, not a program"),
        (("/etc/passwd",), "/etc/passwd is not executable by this user"),
        (("/bad",), "/bad is not a program: neither a binary nor a script with #!"),
        (("/arm",), "/arm is a program for aarch64, and this machine is x86_64"),
        (("/script",), "/script needs the interpreter /no/interpreter, which is missing"),
    ],
)
def test_why_a_command_does_not_start(place: Lab, argv: tuple[str, ...], message: str) -> None:
    files = {
        "bad": b"rubbish\n",
        "arm": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44),
        "script": b"#!/no/interpreter\n",
    }
    for name, content in files.items():
        (place.rootfs / name).write_bytes(content)
        (place.rootfs / name).chmod(0o755)
    with pytest.raises(LaunchError) as caught:
        place.launch("command", place.full(*argv))
    assert (caught.value.operation, caught.value.message) == ("Execute", message)


def test_a_missing_user_is_named(place: Lab) -> None:
    with pytest.raises(LaunchError) as caught:
        place.launch("user", place.full("true", user="nobody-here"))
    assert caught.value.message == "user 'nobody-here' is not in the rootfs's /etc/passwd"


def test_a_missing_cgroup_is_an_error_of_the_clone(place: Lab) -> None:
    with pytest.raises(LaunchError) as caught:
        place.launch("born", Program(cgroup="/no/cgroup", operations=(RUN,)))
    assert (caught.value.operation, caught.value.argument) == ("clone", "/no/cgroup")
    assert place.state("born").exits[-1].error is not None


def test_namespaces_are_made_and_pinned(place: Lab, tmp_path: Path) -> None:
    from orchestrator.supervisor.kernel import mounts

    kinds = ("net", "uts", "ipc")
    pins = tuple(ops.PinNamespace(kind=kind, path=str(tmp_path / kind)) for kind in kinds)
    sysctl = ops.SetSysctl(name="net.ipv4.ip_unprivileged_port_start", value="0")
    program = Program(new=kinds, operations=(ops.SetHostname(name="pinned"), sysctl, *pins))
    try:
        place.supervisor.run(program)
        place.supervisor.run(program)  # again, over what is there
        joins = tuple(ops.JoinNamespace(kind=kind, path=str(tmp_path / kind)) for kind in kinds)
        look = "cat /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_unprivileged_port_start"
        _, lines = place.run(
            Program(operations=(*joins, ops.Execute(argv=("sh", "-c", look), env=ENV))), "pinned"
        )
        assert lines == ["pinned", "0"]
    finally:
        for kind in kinds:
            mounts.detach(str(tmp_path / kind))


def test_a_set_up_program_that_fails_is_an_error(place: Lab) -> None:
    with pytest.raises(LaunchError) as caught:
        place.supervisor.run(Program(operations=(ops.PinNamespace(kind="net", path="/no/pin"),)))
    assert caught.value.operation == "PinNamespace"
