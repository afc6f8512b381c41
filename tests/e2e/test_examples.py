"""Every example on the real runtime: planned, applied, found unchanged, changed, deleted, and nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import REPOSITORY, Stage

pytestmark = pytest.mark.root

# example -> (an edit, what the plan says of it)
EDITS = {
    "quickstart.yaml": (("replicas: 3", "replicas: 2"), "container/web-3/server"),
    "limits.yaml": (("memory: 64MiB                        #", "memory: 96MiB  #"), "64MiB -> 96MiB"),
    "networks.yaml": (("dns: [192.0.2.53]", "dns: [192.0.2.54]"), "192.0.2.54"),
    "volumes-and-mounts.yaml": (
        ("{tmpfs: 1MiB, target: /tmp}", "{tmpfs: 2MiB, target: /tmp}"),
        "writer-1/writer",
    ),
    "secrets-and-configs.yaml": (("hello from", "good day from"), "config greeting changed"),
    "jobs-and-dependencies.yaml": (("seq 1 1000", "seq 1 2000"), "container/fetch-1/fetch"),
}

ELSEWHERE = {"shop.yaml", "images.yaml"}  # real servers: tests of their own


def test_every_example_is_here() -> None:
    assert set(EDITS) | ELSEWHERE == {each.name for each in (REPOSITORY / "examples").glob("*.yaml")}


@pytest.mark.parametrize("example", sorted(EDITS))
def test_example_is_planned_applied_changed_and_deleted(stage: Stage, example: str) -> None:
    (old, new), said = EDITS[example]
    first = stage.run("plan", "-f", example)
    assert "to create, 0 to update, 0 to delete" in first.out
    assert not stage.ps()

    stage.run("apply", "-f", example, "--timeout", "90s")
    assert stage.run("plan", "-f", example, "--check").out.startswith("No changes.")
    before = {ref: each["pid"] for ref, each in stage.ps().items()}

    stage.edit(example, old, new)
    planned = stage.run("plan", "-f", example, "--check", code=3)
    assert said in planned.out
    assert {ref: each["pid"] for ref, each in stage.ps().items()} == before, "plan touched what runs"

    stage.run("apply", "-f", example, "--timeout", "90s")
    assert stage.run("plan", "-f", example, "--check").out.startswith("No changes.")

    stage.run("delete", "-f", example, "--prune-data")
    assert not stage.ps()
    assert "no stacks here" in stage.run("ls").out
    assert _mounts_below(stage.root) == []


def _mounts_below(root: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(f"{root}/run/groups")]
