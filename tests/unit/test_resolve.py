"""From manifest to stack: refs, needs, defaults, places."""

from __future__ import annotations

import time
from typing import Any

import pytest

from orchestrator.manifest import Code, load
from orchestrator.model.desired import (
    ContainerSpec,
    GroupSpec,
    HostRoot,
    Limits,
    Logs,
    Need,
    NetworkSpec,
    RestartPolicy,
    RootfsSpec,
    ServiceSpec,
    Stack,
    Until,
)
from orchestrator.model.ids import Kind, Ref
from orchestrator.resolve import resolve_all


def stack(text: str) -> Stack:
    (found,), diagnostics = resolve_all(load(["-"], {}, stdin="stack: s\n" + text))
    assert diagnostics == ()
    return found


def codes(text: str) -> list[str]:
    return [str(each.code) for each in resolve_all(load(["-"], {}, stdin="stack: s\n" + text))[1]]


def spec(found: Stack, ref: str) -> Any:
    return found.resources[Ref.parse(ref)]


def needs(found: Stack, ref: str) -> dict[str, str]:
    return {
        str(need.ref): f"{need.until}{'!' if need.structural else ''}" for need in found.needs[Ref.parse(ref)]
    }


def test_smallest_stack_has_every_default() -> None:
    found = stack("containers: {a: {rootfs: host, command: [x]}}")
    assert [str(ref) for ref in found.resources] == [
        *("stack/s", "rootfs/host", "network/default", "group/a-1", "service/a", "container/a-1/a")
    ]
    assert spec(found, "rootfs/host") == RootfsSpec(source=HostRoot())
    assert spec(found, "network/default") == NetworkSpec(members=("a", "a-1"))
    assert spec(found, "group/a-1") == GroupSpec(service="a", hostname="a-1", networks=("default",))
    assert spec(found, "service/a") == ServiceSpec(networks=("default",), instances=("a-1",))
    assert spec(found, "container/a-1/a") == ContainerSpec(
        rootfs="host",
        command=("x",),
        env={},
        limits=Limits(pids=4096),
        restart=RestartPolicy.ALWAYS,
        logs=Logs(),
    )
    assert needs(found, "group/a-1") == {"stack/s": "created!", "network/default": "created!"}
    assert needs(found, "service/a") == {"network/default": "created!", "group/a-1": "started"}
    assert needs(found, "container/a-1/a") == {"group/a-1": "started!", "rootfs/host": "created!"}


WEB = """
groups:
  web:
    replicas: 2
    depends_on: {db: healthy, seed: completed}
    containers:
      server: {rootfs: host, command: [x], depends_on: {side: started}}
      side: {rootfs: host, command: [x]}
  db:
    replicas: 2
    containers:
      main: {rootfs: host, command: [x], health: {tcp: ":1"}}
      log: {rootfs: host, command: [x]}
containers:
  seed: {rootfs: host, command: [x], job: {}, depends_on: [db]}
"""


def test_dependencies_reach_every_container_of_the_target_and_the_sibling_of_the_own_instance() -> None:
    found = stack(WEB)
    assert needs(found, "container/web-2/server") == {
        "group/web-2": "started!",
        "rootfs/host": "created!",
        "container/web-2/side": "started",
        "container/db-1/main": "healthy",
        "container/db-1/log": "started",
        "container/db-2/main": "healthy",
        "container/db-2/log": "started",
        "container/seed-1/seed": "completed",
    }
    assert set(needs(found, "container/seed-1/seed").values()) == {"started!", "created!", "started"}
    assert spec(found, "container/seed-1/seed").restart is RestartPolicy.ON_FAILURE


def test_sibling_is_found_before_a_group_of_the_same_name() -> None:
    containers = "{a: {rootfs: host, command: [x], depends_on: [db]}, db: {rootfs: host, command: [x]}}"
    text = f"groups: {{web: {{containers: {containers}}}}}\n"
    found = stack(text + "containers: {db: {rootfs: host, command: [x]}}")
    assert Need(Ref(Kind.CONTAINER, "web-1/db"), Until.STARTED) in found.needs[Ref(Kind.CONTAINER, "web-1/a")]
    assert "container/db-1/db" not in needs(found, "container/web-1/a")


def test_networks_left_out_join_default_and_an_empty_list_joins_none() -> None:
    found = stack(
        "containers: {a: {rootfs: host, command: [x], networks: []}, b: {rootfs: host, command: [x]}}"
    )
    assert spec(found, "group/a-1").networks == ()
    assert Ref(Kind.SERVICE, "a") not in found.resources
    assert spec(found, "network/default").members == ("b", "b-1")


def test_default_network_is_not_made_when_nobody_needs_it() -> None:
    found = stack("networks: {n: {}}\ncontainers: {a: {rootfs: host, command: [x], networks: [n]}}")
    assert [ref.name for ref in found.resources if ref.kind is Kind.NETWORK] == ["n"]


def test_limits_of_a_group_of_one_are_its_containers() -> None:
    found = stack("containers: {a: {rootfs: host, command: [x], limits: {memory: 64MiB}}}")
    assert spec(found, "group/a-1").limits == Limits()
    assert spec(found, "container/a-1/a").limits == Limits(memory=64 * 2**20, swap=0, pids=4096)


def test_default_pids_stay_below_the_groups() -> None:
    found = stack(
        "limits: {pids: 500}\ngroups: {g: {limits: {pids: 10}, containers: {a: {rootfs: host, command: [x]}}}}"
    )
    assert spec(found, "container/g-1/a").limits.pids == 10


def test_mounts_are_ordered_so_that_none_hides_another() -> None:
    found = stack(
        "containers: {a: {rootfs: host, command: [x], mounts: [{tmpfs: 1MiB, target: /a/b}, {tmpfs: 1MiB, target: /a}]}}"
    )
    assert [each.target for each in spec(found, "container/a-1/a").mounts] == ["/a", "/a/b"]


def test_replicas_nought_leave_the_name_and_no_instance() -> None:
    found = stack("containers: {a: {rootfs: host, command: [x], replicas: 0}}")
    assert spec(found, "service/a").instances == ()
    assert not [ref for ref in found.resources if ref.kind in (Kind.GROUP, Kind.CONTAINER)]


def test_places_lead_to_what_was_written() -> None:
    found = stack(
        "containers:\n  a:\n    rootfs: host\n    command: [x]\n    env:\n      A: b\n"
        "    limits: {pids: 5}\n    publish: ['1:1']\n"
    )
    places = {(str(ref), field): (span.line, span.column) for (ref, field), span in found.places.items()}
    assert places["stack/s", ""] == (1, 8)
    assert places["container/a-1/a", ""] == (3, 3)
    assert places["container/a-1/a", "command"] == (5, 5)
    assert places["container/a-1/a", "env.A"] == (7, 7)
    assert places["container/a-1/a", "limits.pids"] == (8, 14)
    assert places["service/a", "publish"] == (9, 5)
    assert ("group/a-1", "limits.pids") not in places


@pytest.mark.parametrize(
    ("one", "two", "clash"),
    [
        ("80:1", "80:2", True),
        ("80:1", "0.0.0.0:80:2", True),
        ("0.0.0.0:80:1", "10.0.0.1:80:2", True),
        ("10.0.0.1:80:1", "10.0.0.2:80:2", False),
        ("80:1/udp", "80:2", False),
        ("80-90:80-90", "90-99:1-10", True),
        ("80-90:80-90", "91-99:1-9", False),
    ],
)
def test_published_ports_clash_where_they_overlap(one: str, two: str, clash: bool) -> None:
    start = "rootfs: host, command: [x], publish:"
    text = f"containers: {{a: {{{start} ['{one}']}}, b: {{{start} ['{two}']}}}}"
    assert codes(text) == ([Code.PORT_TAKEN] if clash else [])


def test_same_input_gives_an_equal_stack() -> None:
    assert stack(WEB) == stack(WEB)


def test_a_thousand_containers_are_read_and_resolved_in_well_under_a_second() -> None:
    container = "rootfs: host\n    command: [sleep, infinity]\n    env: {A: b}\n    limits: {memory: 64MiB}\n"
    parts = [
        f"  c{n}:\n    {container}" + (f"    depends_on: [c{n - 1}]\n" if n else "") for n in range(1000)
    ]
    text = "containers:\n" + "".join(parts)
    began = time.process_time()
    found = stack(text)
    assert time.process_time() - began < 1.2  # about 0.25 s on a quiet machine
    assert len(found.resources) == 3003
