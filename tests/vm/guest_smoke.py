"""The smoke suite that runs inside the emulated machine: real containers on pure cgroup v2, through the command line.

In: nothing but the machine of `machine.py`. Out: one line `CHECK {"name", "ok", "detail", "seconds"}` per check, in the
order of `CHECKS`; exit status 0 when all hold. A check may use what the ones before it made; a failed one stops none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path("/mnt/state/orchestrator")
STACK = ROOT.parent / "smoke.yaml"
CGROUPS = Path("/sys/fs/cgroup")
PORT = 18080

WEB = """import http.server as h
class H(h.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'hello from web')
h.ThreadingHTTPServer(('', 80), H).serve_forever()
"""

MANIFEST = """
stack: smoke
rootfs: {base: host}
networks: {front: {}, other: {}}
configs: {program: {file: ./web.py}}
containers:
  ticker:
    rootfs: base
    networks: [front]
    command: [/bin/sh, -c, "n=0; while :; do n=$$((n+1)); echo tick $$n; sleep 0.5; done"]
    limits: {cpus: 0.5, memory: MEMORY, pids: 64, cpuset: "0", io: {device: /dev/vda, read: 1MiB/s}}
  web:
    rootfs: base
    networks: [front]
    publish: ["18080:80"]
    command: [/usr/bin/python3, -S, -u, /srv/web.py]
    mounts: [{config: program, target: /srv/web.py, mode: "0400"}]
    health: {tcp: ":80", interval: 1s, timeout: 10s, retries: 30}
  lonely:
    rootfs: base
    networks: [other]
    depends_on: {web: healthy}
    command: [/bin/sleep, "100000"]
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


def cli(*arguments: str, timeout: float = 150) -> subprocess.CompletedProcess[str]:
    """Run the product's command line on our root; never raises for its exit status."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        env={**os.environ, "ORCHESTRATOR_ROOT": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def succeed(*arguments: str) -> str:
    done = cli(*arguments)
    assert done.returncode == 0, (
        f"{arguments[0]} exits {done.returncode}: {done.stderr[-1500:]}{done.stdout[-500:]}"
    )
    return done.stdout


def containers() -> dict[str, dict[str, Any]]:
    """`ps` as a mapping by the container's short name."""
    stacks = json.loads(succeed("ps", "--output", "json"))["stacks"]
    rows = [row for stack in stacks if stack["name"] == "smoke" for row in stack["containers"]]
    return {row["ref"].rsplit("/", 1)[-1]: row for row in rows}


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


def supervisors() -> set[int]:
    """The processes of the product's supervisor: the guest runs nobody else's."""
    found = set()
    for each in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (each / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if arguments[-3:-1] == ["supervisor", str(ROOT / "run")]:
            found.add(int(each.name))
    return found


def write_manifest(*, memory: str, jobs: bool) -> None:
    STACK.write_text(MANIFEST.replace("MEMORY", memory) + (JOBS if jobs else ""))


class Kept:
    """What one check leaves for later ones."""

    pids: dict[str, int]
    address: str


# --- the checks, in order


def machine_is_pure_v2(kept: Kept) -> str:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(CGROUPS)], capture_output=True, text=True, check=True
    )
    controllers = (CGROUPS / "cgroup.controllers").read_text().split()
    assert kind.stdout.strip() == "cgroup2fs", kind.stdout
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(controllers), controllers
    return f"Linux {os.uname().release}, {' '.join(controllers)}"


def apply_launches_the_stack(kept: Kept) -> str:
    (STACK.parent / "web.py").write_text(WEB)
    write_manifest(memory="128MiB", jobs=False)
    succeed("apply", "-f", str(STACK), "--timeout", "2m")
    rows = containers()
    assert {name for name, row in rows.items() if row["phase"] == "running"} == {"ticker", "web", "lonely"}, (
        rows
    )
    kept.pids = {name: row["pid"] for name, row in rows.items()}
    kept.address = str(rows["web"]["address"])
    return f"pids {kept.pids}"


def limits_are_in_the_kernel(kept: Kept) -> str:
    folder = cgroup(kept.pids["ticker"])
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
    pid = kept.pids["ticker"]
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


def fetch(name: str, url: str) -> subprocess.CompletedProcess[str]:
    """`curl` inside a container, with at most 8 s."""
    return cli("exec", name, "/usr/bin/curl", "-sS", "--max-time", "8", url)


def containers_talk_by_name(kept: Kept) -> str:
    done = fetch("ticker", "http://web/")
    assert "hello from web" in done.stdout, f"exit {done.returncode}: {done.stderr}"
    return "ticker -> http://web/"


def networks_are_apart(kept: Kept) -> str:
    url = f"http://{kept.address}/"
    near, far = fetch("ticker", url), fetch("lonely", url)
    assert "hello from web" in near.stdout, near.stderr
    assert far.returncode != 0 and "hello" not in far.stdout, f"{url} was reached from another network"
    assert "curl:" in far.stderr, f"curl did not run: {far.stderr}"
    return f"{url} unreachable from another network: {far.stderr.strip()}"


def published_port_answers(kept: Kept) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=20) as answer:
        assert answer.read() == b"hello from web"
    return f"127.0.0.1:{PORT}"


def live_update_keeps_the_process(kept: Kept) -> str:
    write_manifest(memory="192MiB", jobs=True)
    done = cli("apply", "-f", str(STACK), "--timeout", "2m")
    assert done.returncode in (0, 1), done.stderr  # 1: `fails` and `hungry` are meant to fail
    value = (cgroup(kept.pids["ticker"]) / "memory.max").read_text().strip()
    assert value == str(192 << 20), f"memory.max is {value}: {done.stderr[-1000:]}"
    rows = containers()
    assert {name: rows[name]["pid"] for name in kept.pids} == kept.pids, rows
    return "memory.max 128MiB -> 192MiB, same pids"


def exit_code_is_kept(kept: Kept) -> str:
    row = containers()["fails"]
    assert row["phase"] == "exited" and "7" in json.dumps(row["exit"]), row
    return json.dumps(row["exit"])


def out_of_memory_is_named(kept: Kept) -> str:
    row = containers()["hungry"]
    text = json.dumps(row["exit"]).lower()
    assert "out of memory" in text or '"oom": true' in text, row
    return text


def supervisor_dies_and_adopts(kept: Kept) -> str:
    before, tick = supervisors(), last_tick()
    assert before, "no supervisor process found"
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until("the supervisor is started again", lambda: bool(supervisors() - before))
    rows = containers()
    assert {name: rows[name]["pid"] for name in kept.pids} == kept.pids, rows
    until("the log goes on", lambda: last_tick() > tick + 2)
    return f"supervisor {before} -> {supervisors()}, containers keep their pids, ticks go on"


def kill_is_recorded_after_adoption(kept: Kept) -> str:
    os.kill(kept.pids["lonely"], signal.SIGKILL)
    rows: dict[str, dict[str, Any]] = {}

    def ended() -> bool:
        rows.update(containers())
        return bool(rows["lonely"]["pid"] != kept.pids["lonely"])

    until("the kill is seen", ended)
    assert "9" in json.dumps(rows["lonely"]["exit"]), rows["lonely"]
    return json.dumps(rows["lonely"]["exit"])


def delete_leaves_nothing(kept: Kept) -> str:
    succeed("delete", "-f", str(STACK), "--prune-data", "--yes")
    gone = [name for name, pid in kept.pids.items() if Path(f"/proc/{pid}").exists()]
    assert not gone, f"still running: {gone}"
    groups = [str(p) for p in CGROUPS.glob("orchestrator-*/**/cgroup.procs") if p.read_text().strip()]
    assert not groups, f"processes in {groups}"
    folders = [str(p) for p in CGROUPS.glob("orchestrator-*/*") if p.is_dir()]
    assert not folders, f"cgroups {folders}"
    links = [each for each in os.listdir("/sys/class/net") if each.startswith("orc")]
    assert not links, f"links {links}"
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ours = [each for each in mounts if each.startswith(f"{ROOT}/")]
    assert not ours, f"mounts {ours}"
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert str(PORT) not in rules, rules
    return "no process, cgroup, link, mount or published port"


CHECKS: tuple[Callable[[Kept], str], ...] = (
    machine_is_pure_v2,
    apply_launches_the_stack,
    limits_are_in_the_kernel,
    container_is_isolated,
    containers_talk_by_name,
    networks_are_apart,
    published_port_answers,
    live_update_keeps_the_process,
    exit_code_is_kept,
    out_of_memory_is_named,
    supervisor_dies_and_adopts,
    kill_is_recorded_after_adoption,
    delete_leaves_nothing,
)
NAMES = tuple(check.__name__ for check in CHECKS)


def main() -> int:
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
