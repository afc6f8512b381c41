"""The smoke suite that runs inside the emulated machine: real containers on pure cgroup v2, through the command line.

In: nothing but the machine of `machine.py`. Out: one line `CHECK {"name", "ok", "detail", "seconds"}` per check, in the
order of `CHECKS`; exit status 0 when all hold. A check may use what the ones before it made; a failed one stops none.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.cli.main import cli as command_line

ROOT = Path("/mnt/state/orchestrator")
STACK = ROOT.parent / "smoke.yaml"
CGROUPS = Path("/sys/fs/cgroup")
PORT = 18080
SECRET = "c4n4ry-of-the-smoke-suite"

WEB = """import http.server as h, socket
class H(h.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(socket.gethostname().encode())
    def log_message(self, *_): pass
h.ThreadingHTTPServer(('', 80), H).serve_forever()
"""

MANIFEST = """
stack: smoke
rootfs: {base: host}
networks: {front: {}, other: {}}
configs: {program: {file: ./web.py}}
secrets: {token: {file: ./token}}
volumes: {small: {size: 4MiB}}
containers:
  ticker:
    rootfs: base
    networks: [front]
    command: [/bin/sh, -c, "n=0; while :; do n=$$((n+1)); echo tick $$n; sleep 0.5; done"]
    limits: {cpus: 0.5, memory: MEMORY, pids: 64, cpuset: "0", io: {device: /dev/vda, read: 1MiB/s}}
    mounts: [{secret: token, target: /run/secrets/token, mode: "0400"}, {volume: small, target: /small}]
    stop: {signal: KILL}
  lonely:
    rootfs: base
    networks: [LONELY]
    depends_on: {web: healthy}
    command: [/bin/sleep, "100000"]
    stop: {signal: KILL}
JOBS
groups:
  web:
    replicas: 2
    networks: [front]
    publish: ["18080:80"]
    containers:
      server:
        rootfs: base
        command: [/usr/bin/python3, -S, -u, /srv/web.py]
        mounts: [{config: program, target: /srv/web.py, mode: "0400"}]
        health: {http: ":80/", interval: 1s, timeout: 2s, retries: 2}
        stop: {signal: KILL}
"""

JOBS = """
  fails:
    rootfs: base
    networks: []
    restart: never
    command: [/bin/sh, -c, "exit 7"]
  hungry:
    rootfs: base
    networks: []
    restart: never
    limits: {memory: 32MiB, swap: 0}
    command: [/usr/bin/python3, -S, -c, "b = bytearray(256 << 20)"]
"""


# --- tools


def load() -> None:
    """Import all of the product: `cli` forks, and nothing is as slow in the emulated machine as imports are."""
    for each in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."):
        if not each.name.endswith("__main__"):
            importlib.import_module(each.name)


def cli(*arguments: str, timeout: int = 150) -> subprocess.CompletedProcess[str]:
    """Run the product's command line on our root, in a child; never raises for its exit status."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if pid == 0:
            _command(arguments, (out.fileno(), err.fileno()), timeout)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(arguments, status, *texts)


def _command(arguments: tuple[str, ...], files: tuple[int, int], timeout: int) -> None:
    """What the forked child is: never returns."""
    status = 70
    try:
        signal.alarm(timeout)  # ends us
        for standard, file in enumerate(files, 1):
            os.dup2(file, standard)
        command_line(list(arguments), prog_name="orchestrator")
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def succeed(*arguments: str) -> str:
    done = cli(*arguments)
    assert done.returncode == 0, (
        f"{arguments[0]} exits {done.returncode}: {done.stderr[-1500:]}{done.stdout[-500:]}"
    )
    return done.stdout


def containers() -> dict[str, dict[str, Any]]:
    """`ps` as a mapping by the instance's name: no group here has two containers."""
    stacks = json.loads(succeed("ps", "--output", "json"))["stacks"]
    rows = [row for stack in stacks if stack["name"] == "smoke" for row in stack["containers"]]
    return {row["ref"].split("/")[1]: row for row in rows}


def pids(*names: str) -> dict[str, int]:
    rows = containers()
    return {name: rows[name]["pid"] for name in names or rows}


def last_exit(name: str) -> str:
    """How the last process of the container before this one ended."""
    incarnations = json.loads(succeed("inspect", name, "--output", "json"))["incarnations"]
    return str(incarnations[-1]["exits"][-1]["exit"])


def cgroup(pid: int) -> Path:
    line = Path(f"/proc/{pid}/cgroup").read_text().splitlines()[0]
    assert line.startswith("0::/"), f"not pure v2: {line}"
    return CGROUPS / line.removeprefix("0::/")


def until(what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)


def last_tick() -> int:
    """The newest number that `ticker` printed, by the `logs` command."""
    ticks = [
        line.split()[-1] for line in succeed("logs", "--tail", "3", "ticker").splitlines() if "tick" in line
    ]
    return int(ticks[-1]) if ticks else 0


def ours(name: str) -> set[int]:
    """The product's processes of that name (keeper, supervisor, agent): the guest runs nobody else's."""
    found = set()
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if (each / "comm").read_text().strip() == f"orc-{name}":
                found.add(int(each.name))
        except OSError:
            continue
    return found


def kill(*found: int) -> None:
    """As one: none of them sees another's end before its own."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in found:
            os.kill(pid, number)
    until("they are gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in found))


def answers(count: int = 6) -> set[str]:
    """Who answers at the published port, or that nobody listens, or that the answer takes too long."""
    said = set()
    for _ in range(count):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=1) as answer:
                said.add(answer.read().decode())
        except OSError as error:
            said.add("refused" if "refused" in str(error) else "late")
    return said


def held() -> bool:
    """Whether nobody else can take the published port."""
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", PORT))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False


def fetch(name: str, *urls: str) -> subprocess.CompletedProcess[str]:
    """`curl` inside a container, with at most 8 s for each."""
    return cli("exec", name, "/usr/bin/curl", "-sS", "--max-time", "8", *urls)


def write_manifest(*, memory: str, jobs: bool, lonely: str) -> None:
    text = MANIFEST
    for name, value in {"JOBS": JOBS if jobs else "", "MEMORY": memory, "LONELY": lonely}.items():
        text = text.replace(name, value)
    STACK.write_text(text)


class Kept:
    """What one check leaves for later ones. `pids`: of the containers whose process has to stay."""

    pids: dict[str, int]
    address: str

    def same(self) -> None:
        assert (found := pids(*self.pids)) == self.pids, f"{self.pids} -> {found}"


# --- the checks, in order


def machine_is_pure_v2(kept: Kept) -> str:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(CGROUPS)], capture_output=True, text=True, check=True
    )
    controllers = (CGROUPS / "cgroup.controllers").read_text().split()
    assert kind.stdout.strip() == "cgroup2fs", kind.stdout
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(controllers), controllers
    return f"Linux {os.uname().release}, {' '.join(controllers)}"


def doctor_sees_nothing_wrong(kept: Kept) -> str:
    """The one command that is a process of its own, as users start it."""
    command = [sys.executable, "-m", "orchestrator", "doctor", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}{done.stdout}"
    wrong = [
        each
        for each in json.loads(done.stdout)["findings"]
        # What is installed beside us, and how full the host's disk is, is no matter of this kernel.
        if each["verdict"] != "ok"
        and each["name"] not in ("init", "space", "runc", "crun", "docker", "containerd")
    ]
    assert not wrong, wrong
    return "no warning"


def apply_launches_the_stack(kept: Kept) -> str:
    (STACK.parent / "web.py").write_text(WEB)
    (STACK.parent / "token").write_text(SECRET)
    write_manifest(memory="128MiB", jobs=False, lonely="other")
    succeed("apply", "-f", str(STACK), "--timeout", "2m")
    rows = containers()
    running = {name for name, row in rows.items() if row["phase"] == "running"}
    assert running == {"ticker-1", "web-1", "web-2", "lonely-1"}, rows
    kept.pids = {name: row["pid"] for name, row in rows.items()}
    kept.address = str(rows["web-1"]["address"])
    return f"pids {kept.pids}"


def limits_are_in_the_kernel(kept: Kept) -> str:
    folder = cgroup(kept.pids["ticker-1"])
    found = {
        name: (folder / name).read_text().strip()
        for name in ("cpu.max", "memory.max", "pids.max", "cpuset.cpus")
    }
    quota, period = found["cpu.max"].split()
    assert int(quota) * 2 == int(period), found
    assert found["memory.max"] == str(128 << 20), found
    assert found["pids.max"] == "64" and found["cpuset.cpus"] == "0", found
    assert (folder / "memory.swap.max").read_text().strip() == "0"
    io = (folder / "io.max").read_text()
    assert f"rbps={1 << 20}" in io, io
    return f"{found} io.max {io.strip()}"


def container_is_isolated(kept: Kept) -> str:
    pid = kept.pids["ticker-1"]
    kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    shared = [
        kind
        for kind in kinds
        if os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    ]
    assert not shared, f"shares {shared} with the host"
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status, status
    return "six namespaces, no_new_privs, seccomp"


def secret_is_in_memory_alone(kept: Kept) -> str:
    inside = succeed(
        "exec", "ticker", "/bin/sh", "-c", "cat /run/secrets/token; stat -c %a /run/secrets/token"
    )
    assert inside == f"{SECRET}400\n", inside
    folder = ROOT / "run/files"
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=True)
    assert kind.stdout.strip() == "tmpfs", kind.stdout
    assert len(Path("/proc/swaps").read_text().splitlines()) == 1, "this kernel has no noswap for tmpfs"
    found = subprocess.run(
        ["grep", "-rlF", SECRET, "--devices=skip", "--exclude-dir=files", str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not found.stdout, found.stdout
    return "mode 0400 on tmpfs, nowhere below the root"


def volume_is_kept_to_its_size(kept: Kept) -> str:
    """ext4 counts by project here, as on any Debian whose disk is mounted so."""
    done = cli("exec", "ticker", "--", "/bin/dd", "if=/dev/zero", "of=/small/x", "bs=1M", "count=8")
    written = os.stat(ROOT / "state/volumes/smoke/small/data/x").st_size
    assert done.returncode != 0 and "quota" in done.stderr.lower(), done.stderr
    assert 3 << 20 <= written <= 4 << 20, written
    return done.stderr.strip().splitlines()[0]


def containers_talk_by_name(kept: Kept) -> str:
    done = fetch("ticker", "http://web/", "http://web-2/")
    assert re.fullmatch("web-[12]web-2", done.stdout), f"{done.stdout!r} {done.returncode}: {done.stderr}"
    return f"ticker -> http://web/ and http://web-2/: {done.stdout}"


def networks_are_apart(kept: Kept) -> str:
    far = fetch("lonely", f"http://{kept.address}/")
    assert far.returncode != 0 and "web" not in far.stdout, f"{kept.address} was reached from another network"
    assert "curl:" in far.stderr, f"curl did not run: {far.stderr}"
    return far.stderr.strip()


def published_port_is_balanced(kept: Kept) -> str:
    until("both answer", lambda: answers() == {"web-1", "web-2"})
    assert held()
    return f"127.0.0.1:{PORT}"


def unhealthy_instances_get_no_traffic(kept: Kept) -> str:
    for name, left in (("web-2", "web-1"), ("web-1", "refused")):
        os.kill(kept.pids[name], signal.SIGSTOP)
        until(f"without {name}, {left} is all there is", lambda left=left: answers(4) == {left})  # type: ignore[misc]
    for name in ("web-1", "web-2"):
        os.kill(kept.pids[name], signal.SIGCONT)
    until("both answer again", lambda: answers() == {"web-1", "web-2"})
    kept.same()
    return "none but the healthy one answers, then nobody, then both again"


def live_update_keeps_the_process(kept: Kept) -> str:
    write_manifest(memory="192MiB", jobs=True, lonely="other, front")
    done = cli("apply", "-f", str(STACK), "--timeout", "2m")
    assert done.returncode in (0, 1), done.stderr  # 1: `fails` and `hungry` are meant to fail
    value = (cgroup(kept.pids["ticker-1"]) / "memory.max").read_text().strip()
    assert value == str(192 << 20), f"memory.max is {value}: {done.stderr[-1000:]}"
    near = fetch("lonely", f"http://{kept.address}/")
    assert near.stdout == "web-1", f"{near.stdout!r}: {near.stderr}"
    kept.same()
    return "memory.max 128MiB -> 192MiB, joined a network, same pids"


def exit_code_is_kept(kept: Kept) -> str:
    row = containers()["fails-1"]
    assert row["phase"] == "exited" and "7" in json.dumps(row["exit"]), row
    return json.dumps(row["exit"])


def out_of_memory_is_named(kept: Kept) -> str:
    row = containers()["hungry-1"]
    text = json.dumps(row["exit"]).lower()
    assert "out of memory" in text or '"oom": true' in text, row
    return text


def agent_and_supervisor_die_and_adopt(kept: Kept) -> str:
    before, tick = ours("agent") | ours("supervisor"), last_tick()
    assert len(before) == 2, before
    kill(*before, lonely := kept.pids.pop("lonely-1"))
    until("another lonely", lambda: pids()["lonely-1"] not in (None, lonely))
    exit = last_exit("lonely")
    assert exit == "signal 9", exit
    kept.same()
    kept.pids |= pids("lonely-1")
    until("the log goes on", lambda: last_tick() > tick + 2)
    return (
        f"{before} -> {ours('agent') | ours('supervisor')}, others keep their pids; lonely meanwhile: {exit}"
    )


def agent_starts_again_what_is_killed(kept: Kept) -> str:
    os.kill(kept.pids["lonely-1"], signal.SIGKILL)
    until("another process", lambda: pids()["lonely-1"] not in (None, kept.pids["lonely-1"]))
    exit = last_exit("lonely")
    assert exit == "signal 9", exit
    kept.pids |= pids("lonely-1")
    kept.same()
    return f"lonely: {exit}, now {kept.pids['lonely-1']}"


def agent_mends_limits(kept: Kept) -> str:
    folder = cgroup(kept.pids["ticker-1"])
    wanted = {
        "memory.max": str(192 << 20),
        "pids.max": "64",
        "cpu.max": (folder / "cpu.max").read_text().strip(),
    }
    for name in wanted:
        (folder / name).write_text("max")
    until(
        "the limits are back",
        lambda: {name: (folder / name).read_text().strip() for name in wanted} == wanted,
    )
    kept.same()
    told = [line for line in succeed("events", "ticker").splitlines() if "mended" in line]
    assert all(any(f"limits.{name}" in line for line in told) for name in ("memory", "pids", "cpus")), told
    return f"{wanted}, same process, told"


def all_of_ours_die_and_apply_adopts(kept: Kept) -> str:
    before = ours("keeper") | ours("agent") | ours("supervisor")
    assert len(before) == 3, before
    kill(*before, kept.pids.pop("lonely-1"))  # whose end nobody sees: there is no PIDFD_GET_INFO here
    write_manifest(memory="192MiB", jobs=True, lonely="other")
    done = cli("apply", "-f", str(STACK), "--timeout", "2m")
    assert done.returncode in (0, 1), done.stderr
    kept.same()
    until("the port is held again", held)
    exit = last_exit("lonely")
    assert "unknown" in exit or "9" in exit, exit
    far = fetch("lonely", f"http://{kept.address}/")
    assert "curl:" in far.stderr and "web" not in far.stdout, f"{far.stdout!r}: {far.stderr}"
    return f"others keep their pids; lonely left a network, its end: {exit}"


def delete_leaves_nothing(kept: Kept) -> str:
    succeed("delete", "-f", str(STACK), "--prune-data", "--yes")
    succeed("agent", "--stop")
    until("the agent is gone", lambda: not ours("agent"))
    gone = [name for name, pid in kept.pids.items() if Path(f"/proc/{pid}").exists()]
    assert not gone, f"still running: {gone}"
    groups = [str(p) for p in CGROUPS.glob("orchestrator-*/**/cgroup.procs") if p.read_text().strip()]
    assert not groups, f"processes in {groups}"
    folders = [str(p) for p in CGROUPS.glob("orchestrator-*/*") if p.is_dir()]
    assert not folders, f"cgroups {folders}"
    links = [each for each in os.listdir("/sys/class/net") if each.startswith("orc")]
    assert not links, f"links {links}"
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [each for each in mounts if each.startswith(f"{ROOT}/")]
    assert not left, f"mounts {left}"
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert str(PORT) not in rules and not held(), rules
    return "no process, cgroup, link, mount or published port"


CHECKS: tuple[Callable[[Kept], str], ...] = (
    machine_is_pure_v2,
    doctor_sees_nothing_wrong,
    apply_launches_the_stack,
    limits_are_in_the_kernel,
    container_is_isolated,
    secret_is_in_memory_alone,
    volume_is_kept_to_its_size,
    containers_talk_by_name,
    networks_are_apart,
    published_port_is_balanced,
    unhealthy_instances_get_no_traffic,
    live_update_keeps_the_process,
    exit_code_is_kept,
    out_of_memory_is_named,
    agent_and_supervisor_die_and_adopt,
    agent_starts_again_what_is_killed,
    agent_mends_limits,
    all_of_ours_die_and_apply_adopts,
    delete_leaves_nothing,
)
NAMES = tuple(check.__name__ for check in CHECKS)


def main() -> int:
    os.environ["ORCHESTRATOR_ROOT"] = str(ROOT)
    load()
    kept = Kept()
    failed = 0
    for check in CHECKS:
        begun = time.monotonic()
        try:
            ok, detail = True, check(kept)
        except Exception as error:  # a check that fails must not hide the others
            ok = False
            detail = f"{error}" if isinstance(error, AssertionError) else traceback.format_exc(limit=-3)
        failed += not ok
        result = {
            "name": check.__name__,
            "ok": ok,
            "detail": detail,
            "seconds": round(time.monotonic() - begun, 1),
        }
        print(f"CHECK {json.dumps(result)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
