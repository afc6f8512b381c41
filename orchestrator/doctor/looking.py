"""Looks at this host: /proc, /sys, system calls with arguments that do nothing, tools that say their version.

In: the layout of an instance and what the application knows of its processes. Out: `HostFacts`. Leaves nothing behind:
rules are loaded in a network namespace of a thread that ends, a user namespace is made by a child that ends.
"""

from __future__ import annotations

# ruff: noqa: PTH116
import ctypes
import errno
import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.doctor.facts import ForwardChain, HostFacts, Space
from orchestrator.doctor.judging import CALLS, FIXED, version
from orchestrator.drivers.embedded.hierarchies import Hierarchies, systemd_runs
from orchestrator.drivers.embedded.inits import host_init
from orchestrator.drivers.network.ipam import DEFAULT_POOL
from orchestrator.ports.layout import Layout
from orchestrator.supervisor import start
from orchestrator.supervisor.kernel import CallError, call, mounts, processes

_TOOLS = ("nft", "ip", "git", "mmdebstrap", "skopeo")
_PATIENCE = 5.0  # seconds for one tool
_IDMAP = 0x100000  # MOUNT_ATTR_IDMAP
# What our own table is made of, in small.
_RULES = """
table ip orchestrator_doctor {
  map to { type inet_service : ipv4_addr . inet_service; elements = { 80 : 10.0.0.2 . 80 }; }
  chain in { type nat hook prerouting priority -100; policy accept;
    tcp dport 81 dnat to numgen inc mod 2 map { 0 : 10.0.0.2, 1 : 10.0.0.3 }
    dnat ip to tcp dport map @to
  }
  chain out { type nat hook postrouting priority 100; policy accept; ct status dnat masquerade; }
  chain over { type filter hook forward priority 0; policy accept; ct state established accept; }
}
"""


def look(layout: Layout, *, pool: str | None, recorded: bool, agent: bool) -> HostFacts:
    hierarchies = Hierarchies.detect()
    answer = start.answer(str(layout.supervisor_socket))
    namespace, idmapped = _user_namespace(_existing(layout.state))
    return HostFacts(
        root=os.geteuid() == 0,
        kernel=platform.release(),
        machine=platform.machine(),
        unified=hierarchies.unified,
        v2=hierarchies.v2,
        v1=frozenset(hierarchies.v1),
        delegated=_delegated(layout, hierarchies),
        calls={name: _known(name) for name in CALLS},
        cgroup_kill=_has_kill(hierarchies),
        pressure=Path("/proc/pressure/cpu").exists(),
        filesystems=frozenset(_text("/proc/filesystems").split()),
        user_namespace=namespace,
        idmapped=idmapped,
        max_user_namespaces=_number("/proc/sys/user/max_user_namespaces"),
        apparmor_restricts=_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1,
        seccomp="\nSeccomp:" in _text("/proc/self/status"),
        libseccomp=_loads("libseccomp.so.2"),
        nft=_nft() if shutil.which("nft") else "it is missing",
        forwarding=_number("/proc/sys/net/ipv4/ip_forward") == 1,
        forward_chains=forward_chains(_ruleset()),
        firewalld=_runs("firewalld"),
        pool=pool or str(DEFAULT_POOL),
        tools={name: shutil.which(name) is not None for name in _TOOLS},
        init=host_init() is not None,
        versions={name: said for name in FIXED if (said := _said(name, "--version"))},
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        inotify={
            name: _number(f"/proc/sys/fs/inotify/{name}") or 0
            for name in ("max_user_watches", "max_user_instances")
        },
        spaces=_spaces((layout.state, layout.run)),
        recorded=recorded,
        keeper=bool(answer and answer["keeper"]),
        supervisor=answer is not None,
        agent=agent,
        log=os.fspath(start.log_path(layout)),
    )


def forward_chains(ruleset: Mapping[str, Any]) -> tuple[ForwardChain, ...]:
    """From `nft -j list ruleset` (libnftables-json(5)): chains at the forward hook that drop by default, but ours."""
    objects = ruleset.get("nftables", ())
    chains = [each["chain"] for each in objects if "chain" in each]
    rules = [each["rule"] for each in objects if "rule" in each]
    found = []
    for each in chains:
        family, table = each["family"], each["table"]
        ours = table.startswith("orchestrator_")
        if (
            each.get("hook") != "forward"
            or each.get("policy") != "drop"
            or ours
            or family not in ("ip", "inet")
        ):
            continue
        mine = [rule for rule in rules if (rule["family"], rule["table"]) == (family, table)]
        docker = any(rule["chain"] == each["name"] and "DOCKER-USER" in json.dumps(rule) for rule in mine)
        asked = (each["name"], "DOCKER-USER") if docker else (each["name"],)
        through = any(rule["chain"] in asked and re.search(r'"orc[*+]?"', json.dumps(rule)) for rule in mine)
        found.append(ForwardChain(family=family, table=table, name=each["name"], ours=through, docker=docker))
    return tuple(found)


def _ruleset() -> Mapping[str, Any]:
    said = _said("nft", "-j", "list", "ruleset")
    with suppress(ValueError):
        found = json.loads(said or "{}")
        return found if isinstance(found, dict) else {}
    return {}


def _nft() -> str | None:
    """Why it cannot load rules, tried in a network namespace that is gone afterwards."""
    found: list[str | None] = []

    def body() -> None:
        try:
            processes.unshare(processes.NAMESPACES["net"])
            command = ["nft", "-f", "-"]
            done = subprocess.run(
                command, input=_RULES, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            found.append(None if done.returncode == 0 else lines[0])
        except (OSError, subprocess.TimeoutExpired) as error:
            found.append(str(error))

    thread = threading.Thread(target=body, name="nft")  # its namespace ends with it
    thread.start()
    thread.join()
    return found[0]


def _user_namespace(folder: str) -> tuple[str | None, str | None]:
    """Why a user namespace cannot be made, and why `folder` cannot be mounted with the ids of one; None: it can."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        pid, pidfd = processes.clone3(processes.NAMESPACES["user"])
    except OSError as error:
        os.close(reading)
        os.close(writing)
        return _reason(error), _reason(error)
    if pid == 0:
        try:
            os.close(writing)
            os.read(reading, 1)  # until the parent has ended with us
        finally:
            os._exit(0)
    try:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text("0 100000 65536\n")
        return None, _mapped(folder, f"/proc/{pid}/ns/user")
    except OSError as error:
        return _reason(error), _reason(error)
    finally:
        processes.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (reading, writing, pidfd):
            os.close(fd)


def _mapped(folder: str, namespace: str) -> str | None:
    opened: list[int] = []
    try:
        opened.append(os.open(namespace, os.O_RDONLY | os.O_CLOEXEC))
        opened.append(mounts.open_tree(mounts.AT_FDCWD, folder))
        attributes = ctypes.create_string_buffer(b"".join(map(_word, (_IDMAP, 0, 0, opened[0]))), 32)
        call("mount_setattr", opened[1], b"", 0x1000, attributes, 32)  # AT_EMPTY_PATH
    except OSError as error:
        return _reason(error)
    finally:
        for fd in opened:
            os.close(fd)
    return None


def _word(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _known(name: str) -> bool:
    """Asked with arguments that it must refuse: the kernel knows the call if it says anything but ENOSYS, and nothing
    above us forbids it if it is not EPERM."""
    arguments = {"close_range": (2, 1, 0), "clone3": (None, 0), "pidfd_open": (-1, 0)}
    try:
        call(name, *arguments.get(name, (-1, None, 0, 0, 0)))
    except CallError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


def _has_kill(hierarchies: Hierarchies) -> bool:
    """No root has the file: a folder below tells that lets us look, or the kernel's age."""
    with suppress(OSError):
        for each in Path(hierarchies.unified or "/nowhere").iterdir():
            if os.access(each, os.X_OK) and each.is_dir():
                return (each / "cgroup.kill").exists()
    return version(platform.release()) >= (5, 14)


def _delegated(layout: Layout, hierarchies: Hierarchies) -> frozenset[str] | None:
    if not systemd_runs() or hierarchies.unified is None:
        return None
    name = layout.cgroup
    path = f"{hierarchies.unified}/orchestrator.slice/{name}.slice/{name}.service/cgroup.controllers"
    return frozenset(_text(path).split()) if os.path.exists(path) else None  # noqa: PTH110


def _spaces(folders: Iterable[Path]) -> tuple[Space, ...]:
    found: dict[int, Space] = {}
    for folder in folders:
        path = _existing(folder)
        with suppress(OSError):
            device, status = os.stat(path).st_dev, os.statvfs(path)
            inodes = status.f_favail if status.f_files else None
            free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
            found.setdefault(device, Space(path=os.fspath(folder), free=free, total=total, inodes=inodes))
    return tuple(found.values())


def _existing(folder: Path) -> str:
    """It, or the nearest above it that is there and that we may see."""
    return next((os.fspath(each) for each in (folder, *folder.parents) if os.access(each, os.F_OK)), "/")


def _runs(command: str) -> bool:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "comm").read_text().strip() == command:
                return True
    return False


def _said(*command: str) -> str | None:
    """The first line, or JSON text, of a tool; None where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
