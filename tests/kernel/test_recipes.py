"""Recipes, built for real by mmdebstrap from the host's own mirrors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from orchestrator.drivers.rootfs.debian import building
from orchestrator.drivers.rootfs.debian.normal import normalise
from orchestrator.drivers.rootfs.debian.recipes import Recipes
from orchestrator.drivers.rootfs.store import ContentStore, tree_name
from orchestrator.errors import StepError
from orchestrator.model.images import Pin, Recipe, RecipeFile
from orchestrator.ports.images import Progress
from orchestrator.ports.layout import Layout
from tests.waiting import until

pytestmark = pytest.mark.root

RECIPE = Recipe(
    suite="bookworm",
    packages=("tini",),
    files=(
        RecipeFile(target="/etc/motd", content="h\xe4llo\n", mode=0o640, owner="daemon"),
        RecipeFile(target="/lib/new/x", content="below a link"),
    ),
    run=("tini --version >/ran", "echo $PATH >>/ran"),
)


@pytest.fixture(scope="module")
def store() -> Iterator[ContentStore]:
    with tempfile.TemporaryDirectory(prefix="orc-recipes-") as folder:
        yield ContentStore(Layout.at(folder))


@pytest.fixture(scope="module")
def built(store: ContentStore) -> Pin:
    told: list[Progress] = []
    assert Recipes(store).pin(RECIPE) == Pin(digest=None)
    pin = Recipes(store).fetch(RECIPE, Pin(digest=None), told.append)
    assert [told[0].stage, told[-1].stage] == ["build", "ready"]
    assert any(each.line for each in told)
    return pin


def run_lines(recipe: Recipe, folder: Path, log: IO[bytes]) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        building.run_lines(recipe, folder, fd, log, lambda line: None)
    finally:
        os.close(fd)


def root(store: ContentStore, pin: Pin) -> Path:
    assert pin.digest is not None
    return store.folder(tree_name(pin.digest))


def test_packages_files_and_lines_are_in(store: ContentStore, built: Pin) -> None:
    top = root(store, built)
    assert (top / "ran").read_text().splitlines()[0].startswith("tini version")
    assert (top / "etc/motd").read_bytes() == b"h\xe4llo\n"
    about = (top / "etc/motd").stat()
    assert (about.st_mode & 0o7777, about.st_uid) == (0o640, 1)
    assert (top / "usr/lib/new/x").read_text() == "below a link"
    assert not any((top / "dev").iterdir()) and not any((top / "proc").iterdir())
    assert not list((top / "var/cache/apt").iterdir())
    assert not (top / "etc/resolv.conf").exists()
    assert not (top / "usr/sbin/policy-rc.d").exists()
    assert not (top / "etc/apt/apt.conf.d/99mmdebstrap").exists(), "the host's proxies are nobody's"
    assert store.about(top.name)["packages"]["tini"]


def test_what_was_built_is_not_built_again(store: ContentStore, built: Pin) -> None:
    told: list[Progress] = []
    assert Recipes(store).pin(RECIPE) == built
    assert Recipes(store).fetch(RECIPE, built, told.append) == built
    assert [each.stage for each in told] == ["ready"]


def test_another_build_gives_the_same_content(store: ContentStore, built: Pin) -> None:
    store.drop("names", f"recipe/{RECIPE.key}")
    assert Recipes(store).fetch(RECIPE, Pin(digest=None), lambda progress: None) == built
    assert not store.damage(root(store, built).name)


def test_a_lock_that_cannot_be_kept_is_refused(store: ContentStore, built: Pin) -> None:
    other = "sha256:" + "1" * 64
    with pytest.raises(StepError, match=str(built.digest)) as caught:
        Recipes(store).fetch(RECIPE, Pin(digest=other), lambda progress: None)
    assert "orchestrator lock --update" in str(caught.value.hint)
    assert not store.has(tree_name(other)) and not store.half_made()


def test_a_line_that_fails_is_told_with_the_logs_end(store: ContentStore) -> None:
    recipe = Recipe(suite="bookworm", packages=("no-such-package",))
    with pytest.raises(StepError, match="Unable to locate package no-such-package") as caught:
        Recipes(store).fetch(recipe, Pin(digest=None), lambda progress: None)
    log = str(caught.value.hint).rpartition("all of it: ")[2]
    assert "no-such-package" in Path(log).read_text()
    assert not store.half_made()


ESCAPES = (
    "! mount -t tmpfs none /mnt",
    "mknod /disk b 8 0 2>/dev/null && ! cat /disk; rm -f /disk",
    "! echo x >/proc/sys/kernel/core_pattern",
    'test -z "$ORC_CANARY" && test $$ = 1 && test ! -e /.host',
    "sleep 4322 & true",
)


def test_a_line_is_root_of_the_recipe_alone(
    store: ContentStore, built: Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORC_CANARY", "alive")
    folder = tmp_path / "root"
    shutil.copytree(root(store, built), folder, symlinks=True)
    with open(tmp_path / "log", "wb") as log:
        for line in ESCAPES:
            run_lines(Recipe(suite="bookworm", run=(line,)), folder, log)
        with pytest.raises(StepError, match="exit 7"):
            run_lines(Recipe(suite="bookworm", run=("exit 7", "touch /after")), folder, log)
    assert not (folder / "after").exists()
    left = subprocess.run(["pgrep", "-f", "^sleep 4322$"], capture_output=True, check=False)
    assert left.returncode == 1, "what a line starts ends with it"


def test_links_that_a_line_made_lead_nowhere_else(tmp_path: Path) -> None:
    host, folder = tmp_path / "host", tmp_path / "root"
    for each in ("tmp", "log", "apt"):
        (host / each).mkdir(parents=True)
        (host / each / "canary").write_text("alive")
    for each in ("machine-id", "resolv.conf", "passwd-"):
        (host / each).write_text("alive")
    (host / "shadow").write_text("root:x:20000:::::::\n")
    before = {path: path.read_bytes() for path in host.rglob("*") if path.is_file()}
    folder.mkdir()
    for each in ("var", "etc", "dev"):
        (folder / each).symlink_to(host)
    normalise(folder, "deb http://mirror.example/debian bookworm main\n")
    assert {path: path.read_bytes() for path in host.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_among_the_packages_it_leaves_nothing_in_tmp(tmp_path: Path, number: signal.Signals) -> None:
    before = set(Path("/tmp").glob("mmdebstrap.*"))  # where it would be by itself
    child = started(tmp_path, "")
    try:
        until(lambda: any(tmp_path.rglob("var/lib/dpkg/status")), 60)
        assert child.poll() is None
    finally:
        child.send_signal(number)
        child.wait()
    assert set(Path("/tmp").glob("mmdebstrap.*")) <= before
    until(lambda: subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False).returncode)
    store = ContentStore(Layout.at(tmp_path))
    for each in store.half_made():
        store.discard(each)
    assert not store.half_made() and not store.contents()


def started(folder: Path, line: str) -> subprocess.Popen[bytes]:
    """A process of its own that builds in the store at `folder`."""
    program = (
        "import sys; from orchestrator.drivers.rootfs.debian.recipes import *\n"
        "from orchestrator.ports.layout import Layout\n"
        "recipe = Recipe(suite='bookworm', run=tuple(filter(None, sys.argv[2:])))\n"
        "Recipes(ContentStore(Layout.at(sys.argv[1]))).fetch(recipe, Pin(digest=None), lambda each: None)\n"
    )
    command = (sys.executable, "-c", program, str(folder), line)
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)


def test_killed_in_the_middle_it_leaves_no_mount_and_no_process(tmp_path: Path) -> None:
    child = started(tmp_path, "sleep 4321")

    def sleeps() -> bool:
        return (
            subprocess.run(["pgrep", "-f", "^sleep 4321$"], capture_output=True, check=False).returncode == 0
        )

    try:
        until(sleeps, 60)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    until(lambda: not sleeps())
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    store = ContentStore(Layout.at(tmp_path))
    assert store.half_made()
    for each in store.half_made():
        store.discard(each)
    assert not store.half_made() and not store.contents()
