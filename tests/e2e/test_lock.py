"""A lock file against a registry whose tags move and that goes away, and what `rootfs prune` never removes."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import Stage
from tests.kernel.image_lab import Registry, image, registry, shell
from tests.kernel.layer_lab import file

pytestmark = pytest.mark.root

RUN = {"Cmd": ["sleep", "600"], "StopSignal": "KILL"}


def pushed(there: Registry, name: str, word: str) -> str:
    """An image of a layer that all of them share, and one of its own; its whole name."""
    there.push(image(shell(), [file("word", word.encode())], said=RUN), name)
    return f"{there.address}/{name}"


def manifest(stage: Stage, name: str) -> None:
    stage.write(
        "s.yaml",
        f"stack: s\nrootfs:\n  app: {{image: '{name}', pull: always}}\n"
        "containers:\n  a: {rootfs: app, networks: []}\n",
    )


def word(stage: Stage) -> str:
    return stage.run("exec", "a", "--", "cat", "/word").out


def apply(stage: Stage) -> None:
    stage.run("apply", "-f", "s.yaml", "--timeout", "1m")


def contents(stage: Stage) -> set[str]:
    return {each.name for each in (stage.root / "state/rootfs").iterdir() if not each.name.startswith(".")}


def names(stage: Stage) -> set[str]:
    found = json.loads(stage.run("rootfs", "ls", "--output", "json").out)["entries"]
    return {name for each in found for name in each["names"]}


def moved(there: Registry, stage: Stage) -> str:
    """A tag that the stack runs on, locked, and that names another image by now."""
    name = pushed(there, "demo/app:1", "one")
    manifest(stage, name)
    stage.run("lock", "-f", "s.yaml")
    pushed(there, "demo/app:1", "two")
    return name


def test_what_is_locked_runs_whatever_the_tag_names_and_without_the_registry(stage: Stage) -> None:
    with registry(stage.root / "registry", netns=stage.netns) as there:
        moved(there, stage)
        apply(stage)
        assert word(stage) == "one"
        stage.run("lock", "-f", "s.yaml", "--check")
        done = stage.run("lock", "-f", "s.yaml", "--update", "app")
        assert "s/app" in done.out and "->" in done.out
        apply(stage)
        assert word(stage) == "two"
    stage.run("apply", "-f", "s.yaml", "--timeout", "1m")
    assert stage.run("plan", "-f", "s.yaml", "--check").out.startswith("No changes.")
    (stage.folder / "stack.lock").unlink()
    assert "ORC402" in stage.run("plan", "-f", "s.yaml", code=2).err, "the tag alone would be asked for"


def test_prune_spares_what_runs_what_revisions_name_and_what_a_lock_names(stage: Stage) -> None:
    with registry(stage.root / "registry", netns=stage.netns) as there:
        name = moved(there, stage)
        apply(stage)
        first = contents(stage)
        stage.run("lock", "-f", "s.yaml", "--update")
        apply(stage)
        both = contents(stage)
        stage.run("rootfs", "pull", pushed(there, "demo/stray:1", "stray"))
        stray = contents(stage) - both
    assert word(stage) == "two" and len(first) == 2 and len(both) == 3 and len(stray) == 1
    told = stage.run("rootfs", "prune", "--dry-run").out
    assert "demo/stray:1" in told and contents(stage) == both | stray
    stage.run("rootfs", "prune", "--yes")
    assert contents(stage) == both, "one runs, the other is of a kept revision"
    assert not any("stray" in each for each in names(stage))
    stage.run("rootfs", "verify")
    stage.run("delete", "s", "--yes")
    stage.run("rootfs", "prune", "--yes")
    locked = contents(stage)
    assert len(locked) == 2 and locked < both and locked != first, "the lock holds what it names, and no more"
    apply(stage)
    assert word(stage) == "two", f"without a registry, of which {name} is"
    stage.run("delete", "s", "--yes")
    (stage.folder / "stack.lock").unlink()
    stage.run("rootfs", "prune", "--yes")
    assert contents(stage) == set() and names(stage) == set()


def test_verify_tells_what_differs_and_repairs_what_nothing_runs_on(stage: Stage) -> None:
    with registry(stage.root / "registry", netns=stage.netns) as there:
        name = pushed(there, "demo/app:1", "one")
        stage.run("rootfs", "pull", name)
        (own,) = [each for each in (stage.root / "state/rootfs").iterdir() if (each / "word").exists()]
        (own / "word").write_text("bad")
        assert "word: changed" in stage.run("rootfs", "verify", code=1).out
        stage.run("rootfs", "verify", "--repair", code=1)
        assert not own.exists()
        before = there.blobs_served()
        stage.run("rootfs", "pull", name)
        assert there.blobs_served() > before
        stage.run("rootfs", "verify")
        manifest(stage, name)
        apply(stage)
    (own / "word").write_text("bad")
    done = stage.run("rootfs", "verify", "--repair", code=1)
    assert "stack s runs on it" in done.out and own.exists()
