"""Other tools on the same jobs in the same run: N containers that sleep, from a static busybox.

In: what is installed (nothing is installed here). Out: seconds per rival, or the reason why it was skipped. Each runs in a
network and mount namespace of its own, so that no link, rule or mount of it stays; its folders lie below the given one.
Two differences in the rivals' favour: a shared read-only or overlay root with one file, and crun makes no network at all.
Jobs are named as the figures are: `bring_up`, `restart` (containers that are to be restarted always are killed, one after
the other), `again` (what is up already is brought up).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.product import CHECKOUT, MARK

Result = float | str
"""Seconds, or why it was skipped."""

_PRELUDE = """set -e -o pipefail
ip link set lo up
now() { date +%s.%N; }
"""


def run(folder: Path, job: str, *, count: int) -> Mapping[str, Result]:
    """Every rival once; the folder is theirs to fill and is removed by the caller."""
    return {name: _one(script, NEEDS[name], folder / name, count) for name, script in JOBS[job].items()}


def _one(script: Callable[[Path, int], str], needs: tuple[str, ...], folder: Path, count: int) -> Result:
    absent = [each for each in needs if shutil.which(each) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    root = folder / "rootfs"
    (root / "bin").mkdir(parents=True)
    for name in ("proc", "sys", "dev", "etc", "run", "tmp"):
        (root / name).mkdir()
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    os.link(root / "bin/busybox", root / "bin/sleep")
    try:
        done = subprocess.run(
            ["unshare", "--net", "--mount", "bash", "-c", _PRELUDE + script(folder, count)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "took more than 300 s"
    marked = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("TIMES ")]
    if not marked:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return f"does not run here: {said[-1][:200] if said else f'exit {done.returncode}'}"
    begun, ended = map(float, marked[0])
    return ended - begun


def _crun(folder: Path, count: int) -> str:
    """`crun run --detach`, two at a time. crun refuses hybrid cgroups, so the unified mount is hidden from it."""
    bundle = folder / "bundle"
    bundle.mkdir()
    at = shlex.quote(str(folder))
    return f"""
for each in $(awk '$3 == "cgroup2" && $2 != "/sys/fs/cgroup" {{print $2}}' /proc/mounts); do umount "$each"; done
cd {at}/bundle && crun spec
{_patch(folder)}
trap 'for i in $(seq {count}); do crun --root {at}/state delete -f bench-limit-$i 2>/dev/null; done' EXIT
begun=$(now)
seq {count} | xargs -P 2 -I '{{}}' \
    crun --root {at}/state run --detach --bundle {at}/bundle bench-limit-'{{}}' >/dev/null 2>{at}/errors ||
    {{ cat {at}/errors >&2; exit 1; }}
echo TIMES $begun $(now)
"""


def _patch(folder: Path) -> str:
    """Shell that makes `crun spec`'s config.json one of a sleeping container on the shared root, without a terminal."""
    program = (
        "import json; c = json.load(open('config.json')); c['process']['args'] = ['/bin/sleep', '100000'];"
        f"c['process']['terminal'] = False; c['root'] = {{'path': {str(folder / 'rootfs')!r}, 'readonly': True}};"
        "json.dump(c, open('config.json', 'w'))"
    )
    return f"python3 -c {shlex.quote(program)}"


def _podman(folder: Path, count: int) -> str:
    """`podman run -d`, two at a time, on its default bridge network, with runc where cgroups are hybrid."""
    at = shlex.quote(str(folder))
    return f"""
{_podman_ready(folder)}
begun=$(now)
seq {count} | xargs -P 2 -I '{{}}' \
    $podman run -d $hard --name bench-'{{}}' --rootfs {at}/rootfs:O /bin/sleep 100000 >/dev/null 2>{at}/errors ||
    {{ grep -v level= {at}/errors >&2; exit 1; }}
echo TIMES $begun $(now)
"""


def _podman_restart(folder: Path, count: int) -> str:
    at = shlex.quote(str(folder))
    return f"""
{_podman_ready(folder)}
for mark in {_marks(count)}; do
    $podman run -d $hard --restart=always --rootfs {at}/rootfs:O /bin/sleep $mark >/dev/null 2>{at}/errors ||
        {{ grep -v level= {at}/errors >&2; exit 1; }}
done
{_killed(count)}
"""


def _podman_ready(folder: Path) -> str:
    """Shell after which `$podman` is one of its own, that goes with all of its containers."""
    at = shlex.quote(str(folder))
    base = "podman --root /mnt/storage --runroot /mnt/run --cgroup-manager cgroupfs --events-backend none"
    return f"""
runtime=
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || runtime="--runtime runc"
mount --bind {at} /mnt  # podman refuses a runroot of more than 50 characters
podman="{base} $runtime"
mount -t tmpfs tmpfs /var/lib/cni 2>/dev/null || true
hard="--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
leave() {{
    $podman rm -f -a -t 0 >/dev/null 2>&1
    find /sys/fs/cgroup -depth -path "*/libpod_parent*" -type d -exec rmdir {{}} + 2>/dev/null
}}
trap leave EXIT
"""


def _compose(folder: Path, count: int) -> str:
    """`docker-compose up -d` on a daemon of its own that was started by hand."""
    return f"""
{_compose_ready(folder, count)}
begun=$(now)
up
echo TIMES $begun $(now)
"""


def _compose_again(folder: Path, count: int) -> str:
    return f"""
{_compose_ready(folder, count)}
up
begun=$(now)
up
echo TIMES $begun $(now)
"""


def _compose_ready(folder: Path, count: int) -> str:
    """Shell after which `up` brings up so many services."""
    at = shlex.quote(str(folder))
    services = {f"c{i}": {"image": "bench-sleep", "command": ["/bin/sleep", "100000"]} for i in range(count)}
    (folder / "docker-compose.yml").write_text(json.dumps({"version": "3", "services": services}))
    return f"""
{_docker_ready(folder)}
export COMPOSE_PARALLEL_LIMIT=64 COMPOSE_HTTP_TIMEOUT=250
cd {at}
up() {{
    docker-compose up -d >{at}/out 2>&1 || {{ tail -3 {at}/out >&2; exit 1; }}
}}
"""


def _docker_restart(folder: Path, count: int) -> str:
    return f"""
{_docker_ready(folder)}
for mark in {_marks(count)}; do
    docker run -d --restart=always bench-sleep /bin/sleep $mark >/dev/null
done
{_killed(count)}
"""


def _docker_ready(folder: Path) -> str:
    """Shell after which a daemon of its own has the image `bench-sleep`; it goes with all of its containers."""
    at = shlex.quote(str(folder))
    return f"""
export DOCKER_HOST=unix://{at}/docker.sock
dockerd -H "$DOCKER_HOST" --data-root {at}/data --exec-root {at}/exec --pidfile {at}/pid >{at}/log 2>&1 &
daemon=$!
leave() {{
    docker ps -aq 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1
    kill $daemon; wait $daemon
    rmdir /sys/fs/cgroup/*/docker /sys/fs/cgroup/docker 2>/dev/null
}}
trap leave EXIT
n=0
until docker version >/dev/null 2>&1; do
    n=$((n+1)); [ $n -lt 150 ] || {{ tail -1 {at}/log >&2; exit 1; }}
    sleep 0.1
done
tar -C {at}/rootfs -c . | docker import - bench-sleep >/dev/null
"""


RIVAL_MARKS = 2 * MARK
"""Other marks than ours, which may still be ending."""


def _marks(count: int) -> str:
    return " ".join(str(RIVAL_MARKS + number) for number in range(count))


def _killed(count: int) -> str:
    """Shell that kills each once and tells the median of the seconds until it runs again."""
    python = f"PYTHONPATH={shlex.quote(str(CHECKOUT))} {shlex.quote(sys.executable)}"
    return f"median=$({python} -m benchmarks.restarts {_marks(count)})\necho TIMES 0 $median"


NEEDS: Mapping[str, tuple[str, ...]] = {
    "crun": ("crun", "busybox"),
    "podman": ("podman", "runc", "busybox"),
    "docker": ("dockerd", "docker", "busybox"),
    "docker-compose": ("docker-compose", "dockerd", "docker", "busybox"),
}
"""By rival, the programs without which it is skipped."""

JOBS: Mapping[str, Mapping[str, Callable[[Path, int], str]]] = {
    "bring_up": {"crun": _crun, "podman": _podman, "docker-compose": _compose},
    "restart": {"podman": _podman_restart, "docker": _docker_restart},
    "again": {"docker-compose": _compose_again},
}
"""By job and rival, the shell that prints when it began and when it ended."""
