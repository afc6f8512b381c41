"""Images and recipes: what is looked up, and what an image says is the default under the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.manifest.load import Manifest, load
from orchestrator.model import desired as d
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.images import ArchiveWish, ImageConfig, ImageWish, Pin, Pull, Recipe
from orchestrator.resolve.resolver import resolve
from orchestrator.resolve.roots import wanted_of

DIGEST = "sha256:" + "1" * 64
SAYS = ImageConfig(
    entrypoint=("/entry",),
    command=("serve",),
    env={"A": "image", "B": "image"},
    user="999:999",
    workdir="/data",
    stop_signal="INT",
    health=d.Health(probe=d.CommandProbe(command=("ready",))),
)


def manifest(folder: Path, text: str) -> Manifest:
    path = folder / "s.yaml"
    path.write_text(f"stack: s\n{text}")
    loaded = load([str(path)], {})
    assert not loaded.failed, loaded.diagnostics
    return loaded.manifests[0]


def container(folder: Path, keys: str, config: ImageConfig = SAYS) -> d.ContainerSpec:
    text = f"rootfs: {{i: {{image: app}}}}\ncontainers: {{a: {{rootfs: i, {keys}}}}}\n"
    stack, problems = resolve(manifest(folder, text), pins={"i": Pin(digest=DIGEST, config=config)})
    assert stack is not None, problems
    spec = stack.resources[Ref(Kind.CONTAINER, "a-1/a")]
    assert isinstance(spec, d.ContainerSpec)
    return spec


def test_an_image_says_what_the_manifest_leaves_out(tmp_path: Path) -> None:
    spec = container(tmp_path, "networks: []")
    assert spec.command == ("/entry", "serve")
    assert spec.env == SAYS.env
    assert (spec.user, spec.workdir, spec.stop.signal) == ("999:999", "/data", "INT")
    assert spec.health == SAYS.health


def test_the_manifest_comes_first(tmp_path: Path) -> None:
    spec = container(
        tmp_path,
        "env: {B: mine}, user: root, workdir: /srv, stop: {signal: QUIT, grace: 3s}, health: {tcp: ':80'}",
    )
    assert spec.env == {"A": "image", "B": "mine"}
    assert (spec.user, spec.workdir, spec.stop.signal, spec.stop.grace) == ("root", "/srv", "QUIT", 3.0)
    assert spec.health is not None and spec.health.probe == d.TcpProbe(port=80)


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        ("command: [other]", ("/entry", "other")),
        (
            "entrypoint: [/mine]",
            ("/mine",),
        ),  # as everywhere: another entrypoint lets go of the image's command
        ("entrypoint: [/mine], command: [x]", ("/mine", "x")),
        ("command: 'a | b'", ("/entry", "/bin/sh", "-c", "a | b")),
    ],
)
def test_command_and_entrypoint(tmp_path: Path, keys: str, command: tuple[str, ...]) -> None:
    assert container(tmp_path, keys).command == command


def test_health_of_an_image_can_be_refused_and_a_job_has_none(tmp_path: Path) -> None:
    assert container(tmp_path, "health: none").health is None
    assert container(tmp_path, "job: {}").health is None


def test_an_image_without_a_command_needs_one(tmp_path: Path) -> None:
    text = "rootfs: {i: {image: app}}\ncontainers: {a: {rootfs: i}}\n"
    read = manifest(tmp_path, text)
    assert resolve(read)[0] is not None  # not looked up: it may say one
    stack, problems = resolve(read, pins={"i": Pin(digest=DIGEST)})
    assert stack is None
    assert [each.message for each in problems] == ['container "a" needs a command: its image says none']


@pytest.mark.parametrize("health", [None, SAYS.health])
def test_waiting_for_health_goes_by_the_image(tmp_path: Path, health: d.Health | None) -> None:
    text = (
        "rootfs: {i: {image: app}}\n"
        "containers: {a: {rootfs: i}, b: {rootfs: host, command: [x], depends_on: {a: healthy}}}\n"
    )
    read = manifest(tmp_path, text)
    config = ImageConfig(command=("x",), health=health)
    stack, problems = resolve(read, pins={"i": Pin(digest=DIGEST, config=config)})
    assert (stack is not None) == (health is not None)
    assert [each.code for each in problems] == ([] if health else ["ORC115"])


def test_a_digest_is_all_that_makes_another_root(tmp_path: Path) -> None:
    text = "rootfs: {{i: {{image: 'app:{}'}}}}\ncontainers: {{a: {{rootfs: i, command: [x]}}}}\n"
    specs = []
    for tag in ("1", "2"):
        stack, _ = resolve(manifest(tmp_path, text.format(tag)), pins={"i": Pin(digest=DIGEST)})
        assert stack is not None
        specs.append(stack.resources[Ref(Kind.ROOTFS, "i")])
    first, second = specs
    assert isinstance(first, d.RootfsSpec) and isinstance(second, d.RootfsSpec)
    assert first.source == second.source == d.ImageRoot(digest=DIGEST)
    assert first.name != second.name


def test_what_is_to_be_looked_up(tmp_path: Path) -> None:
    (tmp_path / "motd").write_bytes(b"\xff\n")
    text = """
rootfs:
  plain: host
  image: {image: "registry.example/app", pull: never}
  layout: {image: "oci:./layout"}
  tar: {archive: ./a.tar}
  known: {archive: ./a.tar, sha256: "1111111111111111111111111111111111111111111111111111111111111111"}
groups:
  web:
    containers:
      server:
        rootfs: {debian: bookworm, packages: [bb, aa, aa], files: {/etc/motd: ./motd}, run: [x]}
        command: [x]
containers:
  one: {rootfs: {image: app}, command: [x]}
"""
    found = {each.name: each for each in wanted_of(manifest(tmp_path, text))}
    assert set(found) == {"image", "layout", "tar", "web.server", "one.one"}
    image = found["image"].wish
    assert isinstance(image, ImageWish)
    assert image.name.startswith("docker://registry.example/app") and image.pull is Pull.NEVER
    layout = found["layout"].wish
    assert isinstance(layout, ImageWish) and layout.name.startswith(f"oci:{tmp_path}/layout")
    assert found["tar"].wish == ArchiveWish(path=f"{tmp_path}/a.tar")
    recipe = found["web.server"].wish
    assert isinstance(recipe, Recipe)
    assert recipe.packages == ("aa", "bb") and recipe.files[0].content.encode("latin-1") == b"\xff\n"
    assert found["web.server"].path == ("groups", "web", "containers", "server", "rootfs")


def test_every_word_of_a_recipe_is_in_its_key() -> None:
    one = Recipe(suite="bookworm", packages=("a",))
    others = [
        Recipe(suite="trixie", packages=("a",)),
        Recipe(suite="bookworm", packages=("a", "b")),
        Recipe(suite="bookworm", packages=("a",), run=("x",)),
        Recipe(suite="bookworm", packages=("a",), variant="apt"),
    ]
    assert len({one.key, *(each.key for each in others)}) == 5
    assert Recipe(suite="bookworm", packages=("a",)).key == one.key
