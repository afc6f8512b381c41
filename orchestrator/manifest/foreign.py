"""Keys that are not ours, or not yet, and what to write instead.

In: the kind of a mapping and a key. Out: code, message and hint. The tables follow the Compose specification and the pages
of this language that are still to be built.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from orchestrator.manifest.codes import Code

Words = tuple[Code, str, str | None]

# kind of mapping -> key -> what can be done today
_LATER: Mapping[str, Mapping[str, str]] = {
    "stack": {
        "include": "give each file with its own -f; files with the same stack name are one stack",
        "profiles": "put the optional parts in a file of their own",
    },
    "network": {"ipv6": "networks are IPv4 until then"},
    "volume": {
        "shared": "every volume can be mounted by several containers until then",
    },
    "container": {
        "isolation": "every container has the profile app until then",
        "schedule": "use a timer of the host that runs `orchestrator apply`",
        "profiles": "put the optional parts in a file of their own",
        "update": "a changed container is replaced at once until then",
    },
    "group": {
        "isolation": "every container has the profile app until then",
        "update": "changed instances are replaced at once until then",
        "profiles": "put the optional parts in a file of their own",
    },
    "job": {"schedule": "use a timer of the host that runs `orchestrator apply`"},
}

_NOTHING_LIKE = (
    *(
        "privileged",
        "cap_add",
        "cap_drop",
        "devices",
        "security_opt",
        "sysctls",
        "labels",
        "extra_hosts",
        "tty",
    ),
    *(
        "stdin_open",
        "shm_size",
        "pid",
        "ipc",
        "userns_mode",
        "domainname",
        "dns_search",
        "platform",
        "pull_policy",
    ),
    *("extends", "oom_score_adj", "runtime", "group_add"),
)
_CONTAINER = {
    "image": "write rootfs: NAME, with NAME declared under the top-level rootfs:",
    "build": "write rootfs: NAME, with NAME declared under the top-level rootfs:",
    "environment": "write env:",
    "ports": "write publish:",
    "expose": "containers on one network reach all ports of each other; remove it",
    "healthcheck": "write health:",
    "volumes": "write mounts: [{volume: NAME, target: PATH}] or {bind: PATH, target: PATH}",
    "tmpfs": "write mounts: [{tmpfs: SIZE, target: PATH}]",
    "working_dir": "write workdir:",
    "stop_signal": "write stop: {signal: NAME}",
    "stop_grace_period": "write stop: {grace: DURATION}",
    "container_name": "the key of the container is its name; remove it",
    "deploy": "write limits: and replicas:",
    "scale": "write replicas:",
    "mem_limit": "write limits: {memory: SIZE}",
    "mem_reservation": "write limits: {memory_high: SIZE}",
    "memswap_limit": "write limits: {swap: SIZE} (swap alone)",
    "cpus": "write limits: {cpus: N}",
    "cpu_shares": "write limits: {cpu_weight: N} (1 to 10000, 100 is usual)",
    "cpuset": "write limits: {cpuset: LIST}",
    "pids_limit": "write limits: {pids: N}",
    "blkio_config": "write limits: {io: {read: RATE, write: RATE}}",
    "logging": "write logs: {max_size: SIZE, files: N}",
    "network_mode": "write networks: [NAME], or networks: [] for loopback only",
    "links": "containers on one network reach each other by name; remove it",
    "secrets": "write mounts: [{secret: NAME, target: PATH}]",
    "configs": "write mounts: [{config: NAME, target: PATH}]",
    **dict.fromkeys(
        _NOTHING_LIKE,
        "there is nothing like it here; remove it",
    ),
}
_COMPOSE: Mapping[str, Mapping[str, str]] = {
    "stack": {
        "services": "write containers: (and groups: for replicas)",
        "version": "remove it",
        "name": "write stack:",
    },
    "container": _CONTAINER,
    "group": _CONTAINER,
    "network": {
        "driver": "remove it",
        "ipam": "write subnet:",
        "driver_opts": "remove it",
        "attachable": "remove it",
        "enable_ipv6": "remove it",
        "name": "the key of the network is its name",
    },
    "volume": {
        "driver": "remove it",
        "driver_opts": "remove it",
        "name": "the key of the volume is its name",
    },
    "secret": {
        "environment": "a secret is read from a file: write file:",
        "external": "write file:",
        "name": "the key of the secret is its name",
    },
    "config": {
        "environment": "write content: with ${NAME} in it",
        "external": "write file: or content:",
        "name": "the key of the config is its name",
    },
    "mount": {
        "type": "write volume:, bind:, tmpfs:, secret: or config:",
        "source": "write volume: NAME, bind: PATH, secret: NAME or config: NAME",
        "uid": "write owner: UID",
        "gid": 'write owner: "UID:GID"',
    },
    "health": {
        "test": "write command:, http: or tcp:",
        "disable": "leave health: out",
        "start_interval": "remove it",
    },
    "depends_on": {
        "condition": "write until: started, healthy or completed",
        "required": "remove it",
        "restart": "write on_restart: restart",
    },
    "publish": {"published": "write port:", "host_ip": "write address:", "mode": "remove it"},
    "logs": {"driver": "write max_size: and files:", "options": "write max_size: and files:"},
    "limits": {
        "mem": "write memory:",
        "mem_limit": "write memory:",
        "reservations": "remove it",
        "cpu_shares": "write cpu_weight: (1 to 10000, 100 is usual)",
    },
}


def explain(kind: str, key: str, known: Collection[str], elsewhere: Mapping[str, str]) -> Words:
    """Why `key` has no place in a mapping of this kind. `elsewhere`: keys that belong to a neighbour, and where."""
    if key in _LATER.get(kind, {}):
        return Code.NOT_YET, f'"{key}" is not supported yet', _LATER[kind][key]
    if key in elsewhere:
        return Code.UNKNOWN_KEY, f'"{key}" has no place here', elsewhere[key]
    if key in _COMPOSE.get(kind, {}):
        return Code.COMPOSE_KEY, f'"{key}" is a key of Docker Compose', _COMPOSE[kind][key]
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, 1, 0.6)
    listed = ", ".join(known)
    return (
        Code.UNKNOWN_KEY,
        f'unknown key "{key}"',
        f'did you mean "{near[0]}"?' if near else f"known here: {listed}",
    )
