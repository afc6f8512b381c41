"""Secrets and configs in containers of this machine: what is seen inside, live changes, hands that meddle with files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drivers.records import Records
from orchestrator.drivers.secrets import SecretKey
from orchestrator.errors import StepError
from orchestrator.model.desired import (
    ConfigMount,
    ContainerSpec,
    Content,
    FileMount,
    SecretMount,
    Stop,
    Update,
)
from orchestrator.model.ids import Incarnation, Kind
from orchestrator.model.observed import LOST, Phase
from tests.kernel.embedded_lab import Lab, bound, until

pytestmark = pytest.mark.root
SECRET, SITE = "contents.secret/s", "contents.config/site"
# Says `hup` for each signal; a shell that waits for a child would hear it late.
SCRIPT = "import signal\nsignal.signal(1, lambda *_: print('hup'))\nprint('ready')\nwhile 1: signal.pause()"
LISTENER = ("python3", "-uc", SCRIPT)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    SecretKey(made.layout).keep()
    yield made
    made.close()
    assert not made.layout.files.exists(), "the tmpfs outlives its last file"


def secret(lab: Lab, path: Path, data: bytes, **more: Any) -> Content:
    path.write_bytes(data)
    return Content(digest=SecretKey(lab.layout).digest(data), source=str(path), **more)


def config(lab: Lab, data: bytes, **more: Any) -> Content:
    digest = hashlib.sha256(data).hexdigest()
    folder = lab.layout.blobs("lab")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / digest).write_bytes(data)
    return Content(digest=digest, **more)


def spec(*mounts: FileMount, command: tuple[str, ...] = LISTENER, **contents: Content) -> ContainerSpec:
    keys = {key.replace("_", "/", 1): each for key, each in contents.items()}
    return ContainerSpec(
        rootfs="base", command=command, mounts=mounts, contents=keys, stop=Stop(signal="KILL", grace=0.1)
    )


def both(lab: Lab, folder: Path, secret_data: bytes = b"one", site: bytes = b"first\n") -> ContainerSpec:
    live = {"update": Update.LIVE, "signal": "HUP"}
    return spec(
        SecretMount(secret="s", target="/run/secrets/s"),
        ConfigMount(config="site", target="/etc/site.conf"),
        secret_s=secret(lab, folder / "s", secret_data),
        config_site=config(lab, site, **live),
    )


def started(lab: Lab, wish: ContainerSpec) -> Incarnation:
    target = lab.create(wish)
    lab.driver.start(target)
    return target


def update(lab: Lab, target: Incarnation, wish: ContainerSpec, *fields: str) -> None:
    record = Records(lab.layout, frozenset({Kind.CONTAINER})).read(target)
    assert record is not None
    needs = (Incarnation("lab", ref, id) for ref, id in record.ids.items())
    lab.driver.update(target, wish, fields, bound(*needs))


def inside(lab: Lab, target: Incarnation, *command: str) -> str:
    code, text = lab.exec(target, *command)
    assert code == 0, command
    return text


def host_file(lab: Lab, target: Incarnation, path: str) -> Path:
    return lab.layout.files / target.id / hashlib.sha256(path.encode()).hexdigest()[:16]


def test_files_have_their_owner_and_mode_and_nobody_inside_changes_them(lab: Lab, tmp_path: Path) -> None:
    wish = spec(
        SecretMount(secret="s", target="/run/secrets/s"),
        SecretMount(secret="s", target="/deep/er/again", owner="daemon:7", mode=0o440),
        ConfigMount(config="site", target="/etc/site.conf", owner="0"),
        command=("sleep", "600"),
        secret_s=secret(lab, tmp_path / "s", b"one"),
        config_site=config(lab, b"hello\n"),
    )
    target = started(lab, replace(wish, user="nobody"))
    files = ("/run/secrets/s", "/deep/er/again", "/etc/site.conf")
    shown = inside(lab, target, "stat", "-c", "%U:%g %a %s", *files).splitlines()
    assert shown == ["nobody:65534 400 3", "daemon:7 440 3", "root:0 444 6"]
    assert inside(lab, target, "cat", "/run/secrets/s") == "one"
    for each in files:
        for attempt in (f"echo x > {each}", f"chmod 777 {each}", f"rm {each}", f"chown 0:0 {each}"):
            assert lab.exec(target, "sh", "-c", attempt, user="0")[0] != 0, attempt
    mounts = inside(lab, target, "cat", "/proc/self/mountinfo").splitlines()
    options = [line.split() for line in mounts if line.split()[4] in files]
    assert len(options) == 3
    assert all({"ro", "nosuid", "nodev", "noexec"} <= set(each[5].split(",")) for each in options)
    assert lab.layout.files.stat().st_mode & 0o7777 == 0o700


def test_config_whose_mode_says_so_is_a_program(lab: Lab, tmp_path: Path) -> None:
    script = ConfigMount(config="script", target="/entry", mode=0o755)
    content = config(lab, b"#!/bin/sh\necho ran\n")
    assert lab.output("/entry", spec(script, config_script=content)) == "ran\n"
    secret_script = SecretMount(secret="script", target="/entry", mode=0o755)
    hidden = secret(lab, tmp_path / "script", b"#!/bin/sh\necho ran\n")
    assert lab.output("/entry 2>/dev/null; echo $?", spec(secret_script, secret_script=hidden)) == "126\n"


def test_live_change_is_written_on_the_same_inode_and_then_signalled(lab: Lab, tmp_path: Path) -> None:
    first = both(lab, tmp_path)
    target = started(lab, first)
    until(lambda: "ready" in lab.logs(target))
    pid = lab.observe(target).pid
    inode = inside(lab, target, "stat", "-c", "%i", "/etc/site.conf")
    for number, data in enumerate((b"a longer second text\n", b"3\n", b""), start=1):
        content = config(lab, data, update=Update.LIVE, signal="HUP")
        wish = replace(first, contents={**first.contents, "config/site": content})
        update(lab, target, wish, SITE)
        assert inside(lab, target, "cat", "/etc/site.conf") == data.decode()
        until(lambda number=number: lab.logs(target).count("hup") == number)  # type: ignore[misc]
        found = lab.observe(target)
        assert found.pid == pid and SITE not in found.actual
    assert inside(lab, target, "stat", "-c", "%i", "/etc/site.conf") == inode
    update(
        lab, target, wish, SITE, SECRET, "health"
    )  # repeated, as after a crash before the record: nothing is new
    assert inside(lab, target, "cat", "/etc/site.conf") == ""
    assert lab.logs(target).count("hup") == 3


def test_rewrite_that_was_cut_short_is_finished_and_told_by_the_next_pass(lab: Lab, tmp_path: Path) -> None:
    first = both(lab, tmp_path)
    target = started(lab, first)
    until(lambda: "ready" in lab.logs(target))
    with host_file(lab, target, "/etc/site.conf").open("r+") as file:
        file.write("sec")  # the beginning of `second`, over the old text, and nothing recorded
    content = config(lab, b"second\n", update=Update.LIVE, signal="HUP")
    update(lab, target, replace(first, contents={**first.contents, "config/site": content}), SITE)
    assert inside(lab, target, "cat", "/etc/site.conf") == "second\n"
    until(lambda: lab.logs(target).count("hup") == 1)


def _write(path: Path) -> None:
    path.write_bytes(b"evil")


def _chmod(path: Path) -> None:
    path.chmod(0o777)


def _chown(path: Path) -> None:
    os.chown(path, 1, 1)


@pytest.mark.parametrize("meddle", [_write, _chmod, _chown])
def test_file_changed_by_hand_is_seen_and_put_back_in_the_same_process(
    lab: Lab, tmp_path: Path, meddle: Callable[[Path], None]
) -> None:
    wish = both(lab, tmp_path)
    target = started(lab, wish)
    before = lab.observe(target)
    assert not {SITE, SECRET} & before.actual.keys()
    meddle(host_file(lab, target, "/run/secrets/s"))
    assert {name: now for name, now in lab.observe(target).actual.items() if name in (SITE, SECRET)} == {
        SECRET: "changed"
    }
    update(lab, target, wish, SECRET)
    after = lab.observe(target)
    assert after.pid == before.pid and not {SITE, SECRET} & after.actual.keys()
    assert inside(lab, target, "cat", "/run/secrets/s") == "one"
    assert inside(lab, target, "stat", "-c", "%u %a", "/run/secrets/s") == "0 400\n"


def _remove(path: Path) -> None:
    path.unlink()


def _swap(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


@pytest.mark.parametrize("meddle", [_remove, _swap])
def test_file_that_the_container_no_longer_shares_with_us_is_lost_until_it_starts_again(
    lab: Lab, tmp_path: Path, meddle: Callable[[Path], None]
) -> None:
    target = started(lab, both(lab, tmp_path))
    meddle(host_file(lab, target, "/etc/site.conf"))
    assert lab.observe(target).actual[SITE] == LOST
    lab.driver.stop(target)
    lab.driver.start(target)
    assert SITE not in lab.observe(target).actual
    assert inside(lab, target, "cat", "/etc/site.conf") == "first\n"


def test_start_that_was_killed_before_its_last_record_is_no_meddling(lab: Lab, tmp_path: Path) -> None:
    target = started(lab, both(lab, tmp_path))
    records = Records(lab.layout, frozenset({Kind.CONTAINER}))
    record = records.read(target)
    assert record is not None
    files = {name: {**each, "mark": None} for name, each in record.extra["files"].items()}
    records.rewrite(target, extra={"files": files})
    assert not {SITE, SECRET} & lab.observe(target).actual.keys()
    lab.driver.start(target)  # again, while it runs: its files stay the ones that it sees
    assert not {SITE, SECRET} & lab.observe(target).actual.keys()


def test_missing_secret_blocks_the_start_by_name_and_nothing_else(lab: Lab, tmp_path: Path) -> None:
    wish = both(lab, tmp_path)
    target = lab.create(wish)
    for damage in ((tmp_path / "s").unlink, (tmp_path / "s").mkdir):
        damage()
        with pytest.raises(StepError) as refused:
            lab.driver.start(target)
        assert f"secret s: {tmp_path / 's'}: " in refused.value.message
        assert lab.observe(target).phase is Phase.CREATED
    (tmp_path / "s").rmdir()
    (tmp_path / "s").write_bytes(b"one")
    lab.driver.start(target)
    (tmp_path / "s").unlink()
    with pytest.raises(StepError, match="secret s"):
        update(lab, target, wish, SECRET)
    assert lab.observe(target).phase is Phase.RUNNING
    lab.driver.stop(target)
    lab.driver.delete(target)
    assert not (lab.layout.files / target.id).exists()


def test_start_uses_todays_secret_and_tells_what_was_asked(lab: Lab, tmp_path: Path) -> None:
    wish = both(lab, tmp_path)
    asked, key = wish.contents["secret/s"].digest, SecretKey(lab.layout)
    target = lab.create(wish)
    (tmp_path / "s").write_bytes(b"rotated")
    lab.driver.start(target)
    assert inside(lab, target, "cat", "/run/secrets/s") == "rotated"
    applied = lab.observe(target).applied["contents"]["secret/s"]
    assert (applied["digest"], applied["asked"]) == (key.digest(b"rotated"), asked)
    assert SECRET not in lab.observe(target).actual
    (tmp_path / "s").write_bytes(b"one")
    applied = lab.observe(target).applied["contents"]["secret/s"]
    assert applied["digest"] == key.digest(b"rotated") and "asked" not in applied
    lab.driver.stop(target)
    lab.driver.start(target)
    assert lab.observe(target).applied["contents"]["secret/s"] == {
        "digest": asked,
        "source": str(tmp_path / "s"),
    }


def test_owner_that_the_rootfs_does_not_know_is_told_with_the_target(lab: Lab, tmp_path: Path) -> None:
    wish = both(lab, tmp_path)
    mount = ConfigMount(config="site", target="/etc/site.conf", owner="stranger")
    target = lab.create(
        replace(wish, mounts=(mount,), contents={"config/site": wish.contents["config/site"]})
    )
    with pytest.raises(StepError, match=r"owner of /etc/site\.conf: .*user 'stranger' is not in"):
        lab.driver.start(target)


def test_file_of_a_mount_that_was_removed_does_not_stay_in_memory(lab: Lab, tmp_path: Path) -> None:
    wish = both(lab, tmp_path)
    target = started(lab, wish)
    lab.driver.stop(target)
    site = {"config/site": wish.contents["config/site"]}
    for mounts, contents, left in ((wish.mounts[1:], site, 1), ((), {}, 0)):
        update(lab, target, replace(wish, mounts=mounts, contents=contents), "mounts", SECRET)
        lab.driver.start(target)
        assert len(list(lab.layout.files.glob(f"{target.id}/*"))) == left
        assert lab.observe(target).phase is Phase.RUNNING
        lab.driver.stop(target)


def test_damaged_or_missing_config_is_never_mounted(lab: Lab, tmp_path: Path) -> None:
    wish = both(lab, tmp_path, site=b"whole\n")
    target = lab.create(wish)
    blob = lab.layout.blobs("lab") / wish.contents["config/site"].digest
    for damage in (lambda: blob.write_bytes(b"who"), blob.unlink):
        damage()
        with pytest.raises(StepError, match=r"config site: .*/blobs/") as refused:
            lab.driver.start(target)
        assert refused.value.hint == "apply the stack again"


def test_tmpfs_that_was_unmounted_by_hand_is_there_again_for_the_next_start(lab: Lab, tmp_path: Path) -> None:
    target = started(lab, both(lab, tmp_path))
    os.system(f"umount -l {lab.layout.files}")
    assert lab.observe(target).actual[SECRET] == LOST
    assert inside(lab, target, "cat", "/run/secrets/s") == "one"
    lab.driver.stop(target)
    lab.driver.start(target)
    assert SECRET not in lab.observe(target).actual
    assert os.path.ismount(lab.layout.files)
