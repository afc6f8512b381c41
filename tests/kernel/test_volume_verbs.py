"""The `volume` verbs on real folders: what goes out comes in again, and nothing is lost on the way."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from orchestrator.app import App
from orchestrator.drivers.volumes.driver import VolumeDriver
from orchestrator.errors import StepError, UsageError
from orchestrator.model.desired import Stack, VolumeSpec
from orchestrator.model.ids import Incarnation, Kind, Ref
from orchestrator.ports.layout import Layout

pytestmark = pytest.mark.root
DATA = Ref(Kind.VOLUME, "data")


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App.open(str(tmp_path / "root"))


def made(app: App, stack: str = "shop", ref: Ref = DATA, *, wished: bool = True) -> Path:
    driver = VolumeDriver(app.layout)
    target = Incarnation(stack, ref, f"{abs(hash((stack, ref))):012x}"[:12])
    driver.create(target, VolumeSpec(), ())
    if wished:
        app.commit(Stack(name=stack, resources={ref: VolumeSpec()}, needs={ref: ()}))
    return Path(driver.path(target))


def verb(app: App, *arguments: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    root = str(app.layout.root)
    command = [sys.executable, "-m", "orchestrator", "--root", root, "volume", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()
    return done


def filled(data: Path) -> None:
    (data / "d").mkdir(mode=0o750)
    (data / "d/file").write_text("text")
    os.chown(data / "d/file", 1234, 4321)
    (data / "d/file").chmod(0o4751)
    os.link(data / "d/file", data / "twin")
    (data / "link").symlink_to("/etc/passwd")
    os.setxattr(data / "d/file", "user.note", b"yes")
    os.utime(data / "d/file", (1e9, 1e9))
    os.chown(data, 999, 998)
    data.chmod(0o700)


def seen(data: Path) -> list[tuple[object, ...]]:
    found = []
    for each in sorted((data, *data.rglob("*"))):
        status = each.lstat()
        found.append(
            (str(each.relative_to(data)), status.st_mode, status.st_uid, status.st_gid, status.st_nlink)
        )
    return found


def test_a_pipe_carries_owners_modes_links_and_attributes(app: App) -> None:
    data = made(app)
    filled(data)
    stream = verb(app, "backup", "shop/data").stdout
    other = App.open(str(app.layout.state.parent.parent / "other"))
    verb(other, "restore", "shop/data", stdin=stream)
    there = other.layout.volume("shop", "data") / "data"
    assert seen(there) == seen(data)
    assert (there / "d/file").stat().st_ino == (there / "twin").stat().st_ino
    assert os.getxattr(there / "twin", "user.note") == b"yes"
    assert (there / "d/file").stat().st_mtime == 1e9
    assert (there / "link").readlink() == Path("/etc/passwd")


def test_what_is_there_is_replaced_only_when_asked(app: App) -> None:
    data = made(app)
    (data / "old").write_text("old")
    stream = verb(app, "backup", "shop/data").stdout
    (data / "old").write_text("newer")
    told = verb(app, "restore", "shop/data", stdin=stream, code=2).stderr.decode()
    assert "holds data" in told
    assert (data / "old").read_text() == "newer"
    (data / "more").touch()
    verb(app, "restore", "shop/data", "--replace", stdin=stream)
    assert sorted(each.name for each in data.iterdir()) == ["old"]
    assert (data / "old").read_text() == "old"


@pytest.mark.parametrize("kept", [0, 100, 512, 800, 1024])
def test_half_a_stream_leaves_what_was_there(app: App, kept: int) -> None:
    data = made(app)
    (data / "old").write_text("old")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("new")
        member.size = 512
        tar.addfile(member, io.BytesIO(b"x" * 512))
    with pytest.raises(StepError):
        app.volumes_here.restore("shop/data", io.BytesIO(buffer.getvalue()[:kept]), over=True)
    assert [each.name for each in data.iterdir()] == ["old"]
    assert not (data.parent / ".restore").exists()


def test_a_member_that_leads_out_is_refused_and_nothing_is_outside(app: App) -> None:
    data = made(app)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../out"))
    with pytest.raises(StepError, match="leads out"):
        app.volumes_here.restore("shop/data", io.BytesIO(buffer.getvalue()), over=True)
    assert not (data.parent / "out").exists()


def test_a_restore_that_is_killed_leaves_what_was_there_and_can_be_repeated(app: App) -> None:
    data = made(app)
    (data / "old").write_text("old")
    stream = verb(app, "backup", "shop/data").stdout
    command = [sys.executable, "-m", "orchestrator", "--root", str(app.layout.root), "volume"]
    process = subprocess.Popen([*command, "restore", "shop/data", "--replace"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(stream[:1024])
    process.stdin.flush()
    end = time.monotonic() + 30
    while not (data.parent / ".restore").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert (data.parent / ".restore").exists()
    os.kill(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.wait()
    assert (data / "old").read_text() == "old"
    verb(app, "restore", "shop/data", "--replace", stdin=stream)
    assert (data / "old").read_text() == "old"
    assert not (data.parent / ".restore").exists()


def test_prune_takes_what_nobody_wishes_for_and_nothing_else(app: App) -> None:
    wished, kept = made(app), made(app, "gone", wished=False)
    (wished / "x").touch()
    (kept / "x").write_bytes(b"x" * 10000)
    found = {each["stack"]: each for each in json.loads(verb(app, "ls", "-o", "json").stdout)["volumes"]}
    assert {name: each["state"] for name, each in found.items()} == {"shop": "unused", "gone": "kept"}
    assert found["gone"]["bytes"] >= 10000
    assert "nobody can be asked" in verb(app, "prune", code=2).stderr.decode()
    verb(app, "prune", "--dry-run")
    assert kept.exists()
    assert "gone/data" in verb(app, "prune", "--yes").stdout.decode()
    assert not kept.exists()
    assert (wished / "x").exists()
    assert app.stacks() == frozenset({"shop"})


def test_a_volume_that_another_stack_was_made_with_is_not_pruned(app: App) -> None:
    kept = made(app, "gone", wished=False)
    theirs = Incarnation("user", Ref(Kind.VOLUME, "gone/data"), "b" * 12)
    VolumeDriver(app.layout).create(theirs, VolumeSpec(), ())
    with pytest.raises(StepError, match="stack user uses it"):
        app.volumes_here.remove(app.volumes_here.prunable()[0])
    assert kept.exists()


def test_a_name_leads_nowhere_else(app: App) -> None:
    for name in ("../x", "shop/..", "shop/../../x", "/etc/x", "shop/a/b"):
        with pytest.raises(UsageError):
            app.volumes_here.restore(name, io.BytesIO(b""), over=True)
    assert not (Layout.at(str(app.layout.root)).state / "x").exists()
