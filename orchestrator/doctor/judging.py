"""From facts of a host to findings: what is fine, what some stacks will miss, what must be mended first. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.doctor.facts import Finding, ForwardChain, HostFacts, Verdict, Version
from orchestrator.ports.layout import Layout

OK, WARN, BAD = Verdict.OK, Verdict.WARN, Verdict.BAD
CONTROLLERS = {  # controller -> what is missing without it, and whether anything runs without it
    "pids": ("no container runs", True),
    "memory": ("no limits of memory", False),
    "cpu": ("no limits of cpus", False),
    "cpuset": ("no cpuset", False),
    "io": ("no limits of io", False),
}
CALLS = {  # system call -> the kernel that brought it, what does without it (None: nothing)
    "clone3": ("5.3", None),
    "pidfd_open": ("5.3", None),
    "close_range": ("5.9", None),
    "open_tree": ("5.2", None),
    "move_mount": ("5.2", None),
    "fsopen": ("5.2", None),
    "mount_setattr": ("5.12", None),
    "openat2": ("5.6", "paths inside containers are walked name by name"),
}
FILESYSTEMS = {"overlay": "modprobe overlay", "mqueue": None, "devpts": None, "tmpfs": None}
# The last releases with fixes of container escapes: advisories of the projects, as of September 2026. A release line that
# is not listed has no fix, or a distribution's.
FIXED: dict[str, tuple[Version, ...]] = {
    "runc": ((1, 3, 6), (1, 4, 3), (1, 5, 0)),
    "crun": ((1, 30),),
    "docker": ((29, 5, 1),),
    "containerd": ((1, 7, 29), (2, 0, 7), (2, 1, 5), (2, 2, 0)),
}
_LEAST_KERNEL, _TESTED_KERNEL = (5, 14), (6, 1)
_MIB, _GIB = 1 << 20, 1 << 30
_LINKS = f"{Layout.link('')}+"  # our links, as iptables writes it


def judge(host: HostFacts) -> tuple[Finding, ...]:
    """In the order in which one would mend them."""
    return (
        *_kernel(host),
        *_cgroups(host),
        *_isolation(host),
        *_network(host),
        *_tools(host),
        *_bounds(host),
        *_space(host),
        *_processes(host),
        *_others(host),
    )


def failed(findings: tuple[Finding, ...]) -> bool:
    return any(each.verdict is BAD for each in findings)


def version(text: str) -> Version:
    """The first numbers with dots in a text: `runc version 1.1.5+ds1` -> (1, 1, 5); () where there are none."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(each) for each in found[0].split(".")) if found else ()


def _kernel(host: HostFacts) -> Iterator[Finding]:
    if not host.root:
        yield Finding(
            name="root",
            verdict=BAD,
            text="only root makes containers, and only root sees all of what follows",
            mend="sudo orchestrator doctor",
        )
    found, text = version(host.kernel), f"Linux {host.kernel}, {host.machine}"
    if host.machine not in ("x86_64", "aarch64"):
        yield Finding(name="kernel", verdict=BAD, text=f"{text}: only x86_64 and aarch64 are known here")
    elif found < _LEAST_KERNEL:
        yield Finding(name="kernel", verdict=BAD, text=f"{text}: 6.1 is needed", mend="upgrade the kernel")
    elif found < _TESTED_KERNEL:
        yield Finding(name="kernel", verdict=WARN, text=f"{text}: older than 6.1, nothing is tested there")
    else:
        yield Finding(name="kernel", verdict=OK, text=text)
    absent = [name for name in CALLS if not host.calls.get(name, False)]
    for name in absent:
        since, instead = CALLS[name]
        text = f"{name} is refused (Linux {since} has it, and a filter may forbid it): {instead or 'no container runs'}"
        yield Finding(name="calls", verdict=WARN if instead else BAD, text=text)
    if not absent:
        yield Finding(name="calls", verdict=OK, text=", ".join(CALLS))


def _cgroups(host: HostFacts) -> Iterator[Finding]:
    if host.unified is None:
        mend = "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1"
        yield Finding(name="cgroups", verdict=BAD, text="no cgroup v2 hierarchy is mounted", mend=mend)
        return
    mode = "v2" if not host.v1 else "hybrid: v2 with controllers on v1" if not host.v2 else "hybrid"
    yield Finding(name="cgroups", verdict=OK, text=f"{mode}, at {host.unified}")
    for name, (lost, needed) in CONTROLLERS.items():
        if name in host.v2 or name in host.v1:
            continue
        boot = "boot with cgroup_enable=memory" if name == "memory" else None
        verdict = BAD if needed else WARN
        yield Finding(name="cgroups", verdict=verdict, text=f"no {name} controller: {lost}", mend=boot)
    if "memory" in host.v1 and "memory" not in host.v2:
        yield Finding(name="cgroups", verdict=WARN, text="the memory controller is on v1: no memory_high")
    if host.delegated is not None and (lacking := sorted(host.v2 - host.delegated)):
        yield Finding(
            name="delegation",
            verdict=WARN,
            text=f"systemd has not passed {', '.join(lacking)} on to our unit",
            mend="systemctl daemon-reload, then apply again",
        )
    if not host.cgroup_kill:
        text = "no cgroup.kill: what ignores its stop signal cannot be ended (Linux 5.14 has it)"
        yield Finding(name="cgroups", verdict=BAD, text=text)
    if not host.pressure:
        text = "no pressure files: `top` shows no waits"
        yield Finding(name="pressure", verdict=WARN, text=text, mend="boot with psi=1")


def _isolation(host: HostFacts) -> Iterator[Finding]:
    for name, mend in FILESYSTEMS.items():
        if name not in host.filesystems:
            yield Finding(name="filesystems", verdict=BAD, text=f"the kernel knows no {name}", mend=mend)
    if host.seccomp and host.libseccomp:
        yield Finding(name="seccomp", verdict=OK, text="the kernel filters system calls, libseccomp is here")
    elif not host.seccomp:
        yield Finding(
            name="seccomp", verdict=BAD, text="the kernel filters no system calls (CONFIG_SECCOMP_FILTER)"
        )
    else:
        yield Finding(
            name="seccomp", verdict=BAD, text="libseccomp is missing", mend="apt install libseccomp2"
        )
    if host.user_namespace is None:
        yield Finding(name="user namespaces", verdict=OK, text="can be made")
    else:
        mend = None
        if host.max_user_namespaces == 0:
            mend = "sysctl user.max_user_namespaces=10000"
        elif host.apparmor_restricts:
            mend = "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        text = f"cannot be made: {host.user_namespace}"
        yield Finding(name="user namespaces", verdict=WARN, text=text, mend=mend)
    if host.idmapped is None:
        yield Finding(
            name="mapped ids", verdict=OK, text="folders of the state can be mounted with mapped ids"
        )
    elif host.user_namespace is None:
        text = f"not for folders of the state: {host.idmapped}"
        yield Finding(name="mapped ids", verdict=WARN, text=text, mend="keep the state on ext4, xfs or btrfs")


def _network(host: HostFacts) -> Iterator[Finding]:
    if not host.tools.get("nft", False):
        text = "the command nft is missing: no networks, no published ports"
        yield Finding(name="nft", verdict=BAD, text=text, mend="apt install nftables")
    elif host.nft is not None:
        text = f"nft cannot load our rules: {host.nft}"
        yield Finding(name="nft", verdict=BAD, text=text, mend="modprobe nf_tables nft_nat nft_numgen")
    else:
        yield Finding(name="nft", verdict=OK, text="loads our rules")
    text = "on" if host.forwarding else "off; on while containers have networks, for their packets alone"
    yield Finding(name="forwarding", verdict=OK, text=text)
    for chain in host.forward_chains:
        yield _forward(chain)
    if host.firewalld:
        mend = f"firewall-cmd --permanent --zone=trusted --add-source={host.pool} && firewall-cmd --reload"
        text = "firewalld rejects forwarded packets of sources that no zone has"
        yield Finding(name="firewall", verdict=WARN, text=text, mend=mend)
    if not host.forward_chains and not host.firewalld:
        yield Finding(name="firewall", verdict=OK, text="nobody else drops forwarded packets")


def _forward(chain: ForwardChain) -> Finding:
    where = f"the chain {chain.name} of table {chain.family} {chain.table}"
    if chain.ours:
        return Finding(name="firewall", verdict=OK, text=f"{where} drops by default, and lets ours through")
    if chain.table == "filter" and chain.family in ("ip", "ip6"):
        name = "DOCKER-USER" if chain.docker else chain.name
        program = "iptables" if chain.family == "ip" else "ip6tables"
        mend = " && ".join(f"{program} -I {name} {way} {_LINKS} -j ACCEPT" for way in ("-i", "-o"))
    else:
        rule = f"nft insert rule {chain.family} {chain.table} {chain.name}"
        links = _LINKS.replace("+", "*")
        mend = " && ".join(f"{rule} {way} '\"{links}\"' accept" for way in ("iifname", "oifname"))
    text = f"{where} drops forwarded packets, ours too: no traffic between networks, nor to published ports"
    return Finding(name="firewall", verdict=WARN, text=text, mend=mend)


_OPTIONAL = {  # tool -> what wants it
    "ip": "looking at networks by hand",
    "git": "stacks kept in git",
    "mmdebstrap": "root directories of Debian packages",
    "skopeo": "root directories of images",
}


def _tools(host: HostFacts) -> Iterator[Finding]:
    here = [name for name, found in host.tools.items() if found]
    absent = [f"{name} ({wanted})" for name, wanted in _OPTIONAL.items() if name not in here]
    lacking = f"not here: {', '.join(absent)}" if absent else ""
    yield Finding(name="tools", verdict=OK, text="; ".join(filter(None, (", ".join(here), lacking))))
    if not host.init:
        text = "neither catatonit nor tini is here: no container with `init: true`"
        yield Finding(name="init", verdict=WARN, text=text, mend="apt install catatonit")


def _bounds(host: HostFacts) -> Iterator[Finding]:
    if host.nofile < 4096:
        text = f"at most {host.nofile} open files: enough for about {host.nofile // 8} containers"
        yield Finding(name="open files", verdict=WARN, text=text, mend="ulimit -Hn 524288, or LimitNOFILE=")
    else:
        yield Finding(name="open files", verdict=OK, text=f"at most {host.nofile}")
    low = {
        name: (found, least)
        for name, least in {"max_user_watches": 8192, "max_user_instances": 64}.items()
        if (found := host.inotify.get(name, 0)) < least
    }
    for name, (found, least) in low.items():
        text = f"{name} is {found}: `watch` looks at its files every second instead"
        mend = f"sysctl fs.inotify.{name}={least * 16}"
        yield Finding(name="inotify", verdict=WARN, text=text, mend=mend)
    if not low:
        yield Finding(name="inotify", verdict=OK, text=f"{host.inotify.get('max_user_watches', 0)} watches")


def _space(host: HostFacts) -> Iterator[Finding]:
    for each in host.spaces:
        free = f"{each.free / _GIB:.1f} GiB" if each.free >= _GIB else f"{each.free // _MIB} MiB"
        text = f"{each.path}: {free} free"
        if each.free < 16 * _MIB or each.inodes == 0:
            why = "no inodes left" if each.inodes == 0 else free + " free"
            text = f"{each.path}: {why}: records and logs cannot be written"
            yield Finding(name="space", verdict=BAD, text=text, mend=f"make room there (du -xh {each.path})")
        elif each.free < each.total // 20 or (each.inodes is not None and each.inodes < 1000):
            yield Finding(name="space", verdict=WARN, text=f"{text}, less than 5 %, or few inodes")
        else:
            yield Finding(name="space", verdict=OK, text=text)


def _processes(host: HostFacts) -> Iterator[Finding]:
    here = {"keeper": host.keeper, "supervisor": host.supervisor, "agent": host.agent}
    lacking = [name for name, runs in here.items() if not runs]
    if not lacking:
        yield Finding(name="processes", verdict=OK, text="keeper, supervisor and agent run")
    elif not host.recorded:
        yield Finding(name="processes", verdict=OK, text="no stack is here; the first apply starts ours")
    else:
        text = f"{', '.join(lacking)}: not running; containers go on, nobody restarts or mends them"
        yield Finding(name="processes", verdict=WARN, text=text, mend=f"apply again; see {host.log}")


def _others(host: HostFacts) -> Iterator[Finding]:
    for name, text in host.versions.items():
        found, fixed = version(text), FIXED[name]
        written = ".".join(map(str, found)) or text
        if found and _is_fixed(found, fixed):
            yield Finding(name=name, verdict=OK, text=written)
        else:
            least = " or ".join(".".join(map(str, each)) for each in fixed)
            say = f"{written} is older than {least}, which fixed escapes from containers (a distribution may have, too)"
            yield Finding(name=name, verdict=WARN, text=say, mend=f"upgrade {name}")


def _is_fixed(found: Version, fixed: tuple[Version, ...]) -> bool:
    """At least the fix of its own release line (all but the last number), or newer than every line that has one."""
    if found >= fixed[-1]:
        return True
    return any(found[: len(each) - 1] == each[:-1] and found >= each for each in fixed)
