"""What is done to a running stack's network behind our back is mended by the next apply, told, and costs no process."""

from __future__ import annotations

import pytest

from orchestrator.ports.layout import Layout
from tests.e2e.conftest import Stage

pytestmark = pytest.mark.root
STACK = """
stack: shop
rootfs: {base: host}
groups:
  web:
    replicas: 2
    publish: ["8080:80"]
    containers:
      server:
        rootfs: base
        command: [/usr/bin/python3, -m, http.server, "80"]
        health: {http: ":80/", interval: 1s}
        stop: {grace: 1s, drain: 500ms}
"""


def test_damage_to_the_network_is_planned_mended_and_told(stage: Stage) -> None:
    file, layout = stage.write("shop.yaml", STACK), Layout.at(stage.root)
    stage.run("apply", "--once", "-f", file)
    before = {ref: each["pid"] for ref, each in stage.ps().items()}
    assert stage.curl("http://127.0.0.1:8080/").code == 0
    assert (
        "Address already in use"
        in stage.inside("python3", "-m", "http.server", "8080", "-b", "127.0.0.1").err
    )
    for sabotage in (
        ("nft", "delete", "table", "ip", layout.table),
        (
            "sh",
            "-c",
            "for link in $(ip -o link | grep -o 'orc[0-9a-f]*@' | tr -d @); do ip link delete $link; done",
        ),
    ):
        assert stage.inside(*sabotage).code == 0
    plan = stage.run("plan", "-f", file).out
    assert f"table {layout.table} changed behind our back" in plan
    assert "group/web-1" in plan and "link changed behind our back" in plan
    stage.run("apply", "--once", "-f", file)
    assert {ref: each["pid"] for ref, each in stage.ps().items()} == before
    assert [stage.curl("http://127.0.0.1:8080/").code for _ in range(4)] == [0] * 4
    assert "No changes" in stage.run("plan", "-f", file).out
