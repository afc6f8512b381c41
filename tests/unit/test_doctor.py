"""What `doctor` concludes from facts, case by case; the facts of this host are looked at in tests/e2e."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import App
from orchestrator.doctor.facts import ForwardChain, HostFacts, Space, Verdict
from orchestrator.doctor.judging import CALLS, CONTROLLERS, failed, judge, version
from orchestrator.doctor.looking import forward_chains
from tests.unit.fake_app import Stage
from tests.unit.test_cli_verbs import run

GOOD = HostFacts(
    root=True,
    kernel="6.1.0-42-amd64",
    machine="x86_64",
    unified="/sys/fs/cgroup",
    v2=frozenset(CONTROLLERS),
    v1=frozenset(),
    delegated=frozenset(CONTROLLERS),
    calls=dict.fromkeys(CALLS, True),
    cgroup_kill=True,
    pressure=True,
    filesystems=frozenset({"overlay", "mqueue", "devpts", "tmpfs"}),
    user_namespace=None,
    idmapped=None,
    max_user_namespaces=1000,
    apparmor_restricts=False,
    seccomp=True,
    libseccomp=True,
    nft=None,
    forwarding=False,
    forward_chains=(),
    firewalld=False,
    pool="10.87.0.0/16",
    tools=dict.fromkeys(("nft", "ip", "git", "mmdebstrap", "skopeo"), True),
    init=True,
    versions={
        "runc": "runc version 1.3.6",
        "crun": "crun version 1.30",
        "docker": "Docker version 29.5.1, build x",
    },
    nofile=524288,
    inotify={"max_user_watches": 65536, "max_user_instances": 128},
    spaces=(Space(path="/var/lib/orchestrator", free=50 << 30, total=100 << 30, inodes=10**6),),
    recorded=True,
    keeper=True,
    supervisor=True,
    agent=True,
    log="/run/orchestrator/keeper.log",
)


def space(**more: Any) -> dict[str, Any]:
    return {"spaces": (replace(GOOD.spaces[0], **more),)}


def chain(**more: Any) -> dict[str, Any]:
    return {
        "forward_chains": (ForwardChain(**{"family": "ip", "table": "filter", "name": "FORWARD", **more}),)
    }


def test_a_good_host_has_nothing_to_mend() -> None:
    findings = judge(GOOD)
    assert {each.verdict for each in findings} == {Verdict.OK}
    assert not [each for each in findings if each.mend]
    assert not failed(findings)


@pytest.mark.parametrize(
    ("facts", "name", "verdict", "text", "mend"),
    [
        ({"root": False}, "root", "bad", "only root", "sudo"),
        ({"kernel": "5.10.0"}, "kernel", "bad", "6.1 is needed", "upgrade"),
        ({"kernel": "5.15.0"}, "kernel", "warn", "older than 6.1", ""),
        ({"machine": "riscv64"}, "kernel", "bad", "only x86_64", ""),
        ({"calls": {**GOOD.calls, "clone3": False}}, "calls", "bad", "clone3 is refused", ""),
        ({"calls": {**GOOD.calls, "openat2": False}}, "calls", "warn", "walked name by name", ""),
        ({"unified": None}, "cgroups", "bad", "no cgroup v2", "mount -t cgroup2"),
        ({"v2": GOOD.v2 - {"pids"}}, "cgroups", "bad", "no pids controller", ""),
        ({"v2": GOOD.v2 - {"memory"}}, "cgroups", "warn", "no limits of memory", "cgroup_enable=memory"),
        ({"v2": frozenset(), "v1": GOOD.v2}, "cgroups", "warn", "no memory_high", ""),
        ({"delegated": GOOD.v2 - {"io"}}, "delegation", "warn", "has not passed io on", "daemon-reload"),
        ({"cgroup_kill": False}, "cgroups", "bad", "no cgroup.kill", ""),
        ({"pressure": False}, "pressure", "warn", "no waits", "psi=1"),
        (
            {"filesystems": frozenset({"tmpfs", "devpts", "mqueue"})},
            "filesystems",
            "bad",
            "overlay",
            "modprobe",
        ),
        ({"seccomp": False}, "seccomp", "bad", "CONFIG_SECCOMP", ""),
        ({"libseccomp": False}, "seccomp", "bad", "libseccomp is missing", "libseccomp2"),
        (
            {"user_namespace": "no space left on device", "max_user_namespaces": 0},
            "user namespaces",
            "warn",
            "no space left",
            "sysctl user.max_user_namespaces",
        ),
        (
            {"user_namespace": "permission denied", "apparmor_restricts": True},
            "user namespaces",
            "warn",
            "permission denied",
            "apparmor_restrict",
        ),
        ({"idmapped": "invalid argument"}, "mapped ids", "warn", "invalid argument", "ext4"),
        ({"tools": {**GOOD.tools, "nft": False}}, "nft", "bad", "missing", "apt install nftables"),
        ({"nft": "Error: no such thing"}, "nft", "bad", "no such thing", "modprobe"),
        (chain(), "firewall", "warn", "table ip filter", "iptables -I FORWARD -i orc+ -j ACCEPT && "),
        (chain(docker=True), "firewall", "warn", "ours too", "iptables -I DOCKER-USER -o orc+ -j ACCEPT"),
        (
            chain(family="inet", table="mine", name="fwd"),
            "firewall",
            "warn",
            "table inet mine",
            "nft insert rule inet mine fwd iifname '\"orc*\"' accept",
        ),
        (chain(ours=True), "firewall", "ok", "lets ours through", ""),
        ({"firewalld": True}, "firewall", "warn", "firewalld", "--add-source=10.87.0.0/16"),
        ({"init": False}, "init", "warn", "init: true", "catatonit"),
        ({"tools": {"nft": True}}, "tools", "ok", "not here: ip (", ""),
        ({"nofile": 1024}, "open files", "warn", "about 128 containers", "ulimit"),
        (
            {"inotify": {"max_user_watches": 100}},
            "inotify",
            "warn",
            "max_user_watches is 100",
            "sysctl fs.inotify",
        ),
        (space(free=1 << 20), "space", "bad", "cannot be written", "make room"),
        (space(inodes=0), "space", "bad", "no inodes left", "make room"),
        (space(free=2 << 30), "space", "warn", "less than 5 %", ""),
        ({"agent": False}, "processes", "warn", "agent: not running", "/run/orchestrator/keeper.log"),
        (
            {"agent": False, "keeper": False, "supervisor": False, "recorded": False},
            "processes",
            "ok",
            "the first apply starts ours",
            "",
        ),
        (
            {"versions": {"runc": "runc version 1.1.5+ds1"}},
            "runc",
            "warn",
            "1.1.5 is older than 1.3.6",
            "upgrade",
        ),
        ({"versions": {"runc": "runc version 1.4.2"}}, "runc", "warn", "1.4.2 is older", "upgrade"),
        ({"versions": {"runc": "runc version 1.4.10"}}, "runc", "ok", "1.4.10", ""),
        ({"versions": {"crun": "crun version 1.8.1"}}, "crun", "warn", "older than 1.30", "upgrade"),
        ({"versions": {"containerd": "containerd v2.1.5"}}, "containerd", "ok", "2.1.5", ""),
        ({"versions": {"docker": "who knows"}}, "docker", "warn", "who knows", "upgrade"),
    ],
)
def test_each_fault_is_found_and_comes_with_what_mends_it(
    facts: dict[str, Any], name: str, verdict: str, text: str, mend: str
) -> None:
    found = [each for each in judge(replace(GOOD, **facts)) if each.name == name and text in each.text]
    assert [(each.verdict.value, mend in (each.mend or "")) for each in found] == [(verdict, True)]
    assert bool(found[0].mend) == bool(mend)
    assert failed(judge(replace(GOOD, **facts))) == (verdict == "bad")


def test_versions_are_read_from_what_tools_say() -> None:
    assert version("Docker version 28.2.2, build e6534b4") == (28, 2, 2)
    assert version("6.18.44-fc-v669") == (6, 18, 44)
    assert version("nothing") == ()


def test_forward_chains_are_found_in_a_ruleset() -> None:
    def base(table: str, policy: str = "drop", family: str = "ip", hook: str = "forward") -> dict[str, Any]:
        facts = {"family": family, "table": table, "name": "FORWARD", "hook": hook, "policy": policy}
        return {"chain": facts}

    def rule(table: str, chain: str, *expr: Any) -> dict[str, Any]:
        return {"rule": {"family": "ip", "table": table, "chain": chain, "expr": list(expr)}}

    ours = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "orc*"}}
    ruleset = [
        base("open", policy="accept"),
        base("orchestrator_main"),
        base("other", hook="input"),
        base("six", family="ip6"),
        base("plain"),
        base("mended"),
        rule("mended", "FORWARD", ours, {"accept": None}),
        base("filter"),
        rule("filter", "FORWARD", {"jump": {"target": "DOCKER-USER"}}),
        rule("filter", "OTHER", ours, {"accept": None}),
    ]
    assert forward_chains({"nftables": ruleset}) == (
        ForwardChain(family="ip", table="plain", name="FORWARD"),
        ForwardChain(family="ip", table="mended", name="FORWARD", ours=True),
        ForwardChain(family="ip", table="filter", name="FORWARD", docker=True),
    )
    assert forward_chains({}) == ()


def test_command_tells_all_and_fails_where_nothing_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path)
    monkeypatch.setattr(App, "examine", lambda app: GOOD)
    lines = run(stage, "doctor").stdout.splitlines()
    assert lines[0] == "ok    kernel           Linux 6.1.0-42-amd64, x86_64"
    assert lines[-1].endswith(" ok, 0 warn, 0 bad")
    monkeypatch.setattr(App, "examine", lambda app: replace(GOOD, libseccomp=False))
    assert "      -> apt install libseccomp2" in run(stage, "doctor", code=1).stdout.replace(" " * 17, "")
    found = json.loads(run(stage, "doctor", "-o", "json", code=1).stdout)
    assert found["version"] == 1
    wanted = {"name": "seccomp", "verdict": "bad", "text": "libseccomp is missing"}
    assert {**wanted, "mend": "apt install libseccomp2"} in found["findings"]
