"""Two stacks that share a network and a volume: waiting, names, moving along, and who may take what away."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.conftest import Stage

pytestmark = pytest.mark.root

INFRA = """
stack: infra
networks: {edge: {}}
volumes: {files: {}}
containers:
  web:
    rootfs: host
    command: [python3, -m, http.server, "80", --directory, /srv]
    networks: [edge]
    mounts: [{volume: files, target: /srv}]
    health: {tcp: ":80", interval: 100ms}
    stop: {signal: KILL}
"""
SHOP = """
stack: shop
networks: {edge: {external: infra/edge}, own: {}}
volumes: {theirs: {external: infra/files}}
containers:
  front:
    rootfs: host
    command: [python3, -m, http.server, "80", --directory, /srv]
    networks: [edge]
    mounts: [{volume: theirs, target: /srv}]
    stop: {signal: KILL}
  alone: {rootfs: host, command: [sleep, infinity], networks: [own], stop: {signal: KILL}}
"""


def answers(stage: Stage, container: str, name: str) -> None:
    """The container gets an answer by that name."""
    program = f"import urllib.request; urllib.request.urlopen('http://{name}/', timeout=5)"
    stage.run("exec", container, "--", "python3", "-c", program)


def pids(stage: Stage) -> dict[str, int]:
    return {ref: each["pid"] for ref, each in stage.ps().items()}


def test_a_stack_uses_a_network_and_a_volume_of_another(stage: Stage) -> None:
    shop, infra = stage.write("shop.yaml", SHOP), stage.write("infra.yaml", INFRA)

    # Missing is waiting, with the reason, and what is independent goes on.
    done = stage.run("apply", "-f", shop, "--timeout", "3s", code=1)
    assert "waits until network/infra/edge is there" in done.err
    assert [ref for ref, pid in pids(stage).items() if pid] == ["container/alone-1/alone"]
    (planned,) = json.loads(stage.run("plan", "-f", shop, "--output", "json").out)["plans"]
    waits = {each["ref"]: [need["ref"] for need in each["waits"]] for each in planned["changes"]}
    assert waits["group/front-1"] == ["network/infra/edge"]
    assert waits["volume/infra/files"] == ["volume/infra/files"]

    # When it comes, the agent goes on; several stacks in one command, whatever the order of the files.
    stage.run("apply", "-f", infra)
    deadline = time.monotonic() + 20
    while not pids(stage).get("container/front-1/front"):
        assert time.monotonic() < deadline
    stage.run("apply", "-f", shop, "-f", infra)
    stage.run("plan", "-f", shop, "-f", infra, "--check")
    before = pids(stage)
    answers(stage, "front", "web")
    answers(stage, "front", "web-1.infra")
    answers(stage, "web", "front.shop")
    stage.run("exec", "front", "--", "touch", "/srv/mark")
    stage.run("exec", "web", "--", "test", "-e", "/srv/mark")

    # Nobody takes away what others use; the attempt touches nothing.
    bare = stage.write("bare.yaml", INFRA.replace("edge", "other"))
    for attempt in (("delete", "infra"), ("apply", "-f", bare), ("delete", "infra", "--prune-data")):
        done = stage.run(*attempt, code=2)
        assert "edge of stack infra cannot be deleted: stack shop uses it" in done.err
    assert pids(stage) == before

    # The network is made anew elsewhere: who borrows it follows while it runs.
    stage.write("infra.yaml", INFRA.replace("edge: {}", "edge: {subnet: 10.99.7.0/24}"))
    stage.run("apply", "-f", infra, "-f", shop)
    assert pids(stage)["container/front-1/front"] == before["container/front-1/front"]
    assert "10.99.7." in stage.run("exec", "front", "--", "cat", "/etc/hosts").out
    answers(stage, "front", "web")
    answers(stage, "web", "front")

    # The borrower's end takes no data along, and lets the owner go.
    stage.run("delete", "shop")
    stage.run("exec", "web", "--", "test", "-e", "/srv/mark")
    hosts = stage.run("exec", "web", "--", "cat", "/etc/hosts").out
    assert "shop" not in hosts
    stage.run("delete", "infra", "--prune-data")
    assert json.loads(stage.run("ls", "--output", "json").out)["stacks"] == []
