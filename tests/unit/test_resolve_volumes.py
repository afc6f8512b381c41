"""Volumes of each instance: written as such, or asked for by an image."""

from __future__ import annotations

from pathlib import Path

from orchestrator.manifest.load import load
from orchestrator.model.desired import ContainerSpec, Stack, VolumeMount
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.images import ImageConfig, Pin
from orchestrator.resolve.resolver import resolve


def stack_of(folder: Path, text: str, **pins: Pin) -> Stack:
    path = folder / "s.yaml"
    path.write_text(f"stack: s\n{text}")
    loaded = load([str(path)], {})
    assert not loaded.failed, loaded.diagnostics
    stack, problems = resolve(loaded.manifests[0], pins=pins)
    assert stack is not None, problems
    return stack


def mounts(stack: Stack, name: str) -> dict[str, str]:
    spec = stack.resources[Ref(Kind.CONTAINER, name)]
    assert isinstance(spec, ContainerSpec)
    return {each.target: each.volume for each in spec.mounts if isinstance(each, VolumeMount)}


def volumes(stack: Stack) -> set[str]:
    return {ref.name for ref in stack.resources if ref.kind is Kind.VOLUME}


def test_each_instance_has_its_own(tmp_path: Path) -> None:
    stack = stack_of(
        tmp_path,
        """
volumes: {shared: {}, own: {per: instance}, unused: {per: instance}}
groups:
  web:
    replicas: 2
    containers:
      server:
        rootfs: host
        command: [x]
        mounts: [{volume: shared, target: /s}, {volume: own, target: /o, copy: false}]
""",
    )
    assert volumes(stack) == {"shared", "own.web-1", "own.web-2"}
    assert mounts(stack, "web-2/server") == {"/s": "shared", "/o": "own.web-2"}
    needs = {need.ref.name for need in stack.needs[Ref(Kind.CONTAINER, "web-1/server")]}
    assert "own.web-1" in needs and "own.web-2" not in needs
    assert stack.places[Ref(Kind.VOLUME, "own.web-1"), ""].line == 3


def test_an_image_asks_for_volumes_unless_a_mount_covers_them(tmp_path: Path) -> None:
    image = Pin(
        digest="sha256:" + "1" * 64,
        config=ImageConfig(
            command=("x",),
            volumes=("/", "/proc/x", "/var/lib/db/data", "/srv/a b", "/covered", "/covered/too"),
        ),
    )
    stack = stack_of(
        tmp_path,
        """
rootfs: {i: {image: db}}
volumes: {mine: {}}
containers:
  db: {rootfs: i, mounts: [{volume: mine, target: /covered}]}
  other: {rootfs: i, mounts: [{tmpfs: 1MiB, target: /var/lib}]}
""",
        i=image,
    )
    assert mounts(stack, "db-1/db") == {
        "/covered": "mine",
        "/srv/a b": "db.srv-a-b.db-1",
        "/var/lib/db/data": "db.var-lib-db-data.db-1",
    }
    assert set(mounts(stack, "other-1/other")) == {"/srv/a b", "/covered", "/covered/too"}
    assert "db.var-lib-db-data.db-1" in volumes(stack)
