"""`lock`, and stacks with a lock file beside them, over invented images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.control import reading
from orchestrator.model.images import ImageConfig, Pin
from tests.unit.fake_app import Stage

ONE, TWO, THREE = ("sha256:" + digit * 64 for digit in "123")
TEXT = """\
stack: s
rootfs:
  app: {image: "registry.example/app:1"}
  db: {debian: bookworm, packages: [postgresql]}
  tool: {archive: tool.tar}
containers:
  a: {rootfs: app, networks: []}
  b: {rootfs: db, command: [sleep, "9"], networks: []}
  c: {rootfs: tool, command: [sleep, "9"], networks: []}
"""


def pin(digest: str, **packages: str) -> Pin:
    return Pin(digest=digest, config=ImageConfig(command=("sleep", "9")), packages=packages)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    (tmp_path / "s.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    stage = Stage(tmp_path)
    stage.images.pins = {
        "/app:1": pin(ONE),
        "postgresql": pin(TWO, postgresql="15.1"),
        "tool.tar": pin(THREE),
    }
    return stage


def run(stage: Stage, *arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, arguments, obj=stage.open)
    assert done.exit_code == code, done.output
    return done


def lock(stage: Stage, *arguments: str, code: int = 0) -> Result:
    return run(stage, "lock", "-f", "s.yaml", *arguments, code=code)


def edit(old: str, new: str) -> None:
    text = Path("s.yaml").read_text()
    assert old in text
    Path("s.yaml").write_text(text.replace(old, new))


def test_lock_names_what_every_root_came_down_to(stage: Stage) -> None:
    assert "wrote stack.lock" in lock(stage).stdout
    text = Path("stack.lock").read_text()
    for word in (
        f"digest: {ONE}",
        "image: docker://registry.example/app:1",
        f"content: {TWO}",
        'postgresql: "15.1"',
    ):
        assert word in text
    assert f'archive: tool.tar\n        sha256: "{THREE[7:]}"' in text
    assert [each.partition(":")[0] for each in stage.images.fetched] == ["debian"], "recipes alone are built"
    assert stage.images.held == {os.path.abspath("stack.lock"): [ONE, TWO, THREE]}
    assert "stack.lock is as it was" in lock(stage).stdout
    lock(stage, "--check")


def test_what_is_locked_stays_whatever_the_tag_names_by_now(stage: Stage) -> None:
    lock(stage)
    stage.images.pins["/app:1"] = pin(TWO)
    stage.images.asked.clear()
    lock(stage)
    assert not stage.images.asked
    run(stage, "apply", "-f", "s.yaml")
    asked = [each for each in stage.images.asked if each.startswith("docker:")]
    assert set(asked) == {f"docker://registry.example/app:1@{ONE}"}, "the tag is not asked for"


def test_another_content_than_the_lock_says_is_refused(stage: Stage) -> None:
    lock(stage)
    stage.images.pins["tool.tar"] = pin(TWO)
    done = run(stage, "apply", "-f", "s.yaml", code=2)
    assert f"tool.tar is {TWO} now, and the lock says {THREE}" in done.stderr
    assert "--> s.yaml:5" in done.stderr
    assert stage.open().revision("s") is None


def test_a_root_that_the_lock_lacks_or_has_of_another_image_is_refused_at_its_place(stage: Stage) -> None:
    lock(stage)
    stage.images.asked.clear()
    edit("app:1", "app:2")
    edit("  tool:", "  more: {image: x.example/more}\n  tool:")
    edit("packages: [postgresql]", "packages: [postgresql, nginx]")
    done = run(stage, "plan", "-f", "s.yaml", code=2)
    assert (
        "app is image docker://registry.example/app:2, and the lock is of image docker://registry.example/app:1"
        in (done.stderr)
    )
    assert "the recipe of db is another than the lock's" in done.stderr
    assert "more is not in the lock" in done.stderr and "orchestrator lock --update more" in done.stderr
    assert "error[ORC403]" in done.stderr and "--> s.yaml:3:16" in done.stderr
    run(stage, "apply", "-f", "s.yaml", code=2)
    assert not stage.images.asked, "nobody is asked for what is refused"
    found = json.loads(lock(stage, "--check", "-o", "json", code=3).stdout)
    assert [each["rootfs"] for each in found["misfits"]] == ["app", "db", "more"]
    assert not found["fits"] and not stage.images.asked


def test_check_tells_what_the_lock_has_too_much_and_lock_mends_it(stage: Stage) -> None:
    lock(stage)
    edit('  app: {image: "registry.example/app:1"}\n', "")
    edit("  a: {rootfs: app, networks: []}\n", "")
    assert "app is in the lock, and not in the manifest" in lock(stage, "--check", code=3).stdout
    run(stage, "plan", "-f", "s.yaml")
    assert "s/app  sha256:111111111111 -> none" in lock(stage).stdout
    lock(stage, "--check")


def test_check_of_no_lock_at_all(stage: Stage) -> None:
    lock(stage, "--check", code=3)
    assert not Path("stack.lock").exists() and not stage.images.asked


def test_update_takes_anew_what_was_named_and_shows_it(stage: Stage) -> None:
    lock(stage)
    stage.images.pins |= {"/app:1": pin(THREE), "postgresql": pin(ONE, postgresql="15.2", ssl="3")}
    done = lock(stage, "--update", "db")
    assert "s/db  debian:bookworm + postgresql  sha256:222222222222 -> sha256:111111111111" in done.stdout
    assert "  postgresql  15.1 -> 15.2\n  ssl  none -> 3" in done.stdout
    assert stage.images.renewed == ["debian:bookworm + postgresql"]
    assert ONE in Path("stack.lock").read_text()
    found = json.loads(lock(stage, "--update", "-o", "json").stdout)
    (move,) = found["locks"][0]["moves"]
    assert (move["rootfs"], move["old"]["digest"], move["new"]["digest"]) == ("app", ONE, THREE)
    assert len(stage.images.renewed) == 4


def test_a_root_that_cannot_be_had_leaves_the_lock_as_it_was(stage: Stage) -> None:
    lock(stage)
    before = Path("stack.lock").read_bytes()
    del stage.images.pins["/app:1"]
    stage.images.pins["postgresql"] = pin(ONE)
    done = lock(stage, "--update", code=2)
    assert "error[ORC402]" in done.stderr and "--> s.yaml:3:16" in done.stderr
    assert Path("stack.lock").read_bytes() == before


def test_entries_of_other_stacks_stay_and_the_mode_too(stage: Stage) -> None:
    lock(stage)
    Path("stack.lock").chmod(0o640)
    Path("t.yaml").write_text(TEXT.replace("stack: s", "stack: t"))
    done = run(stage, "plan", "-f", "t.yaml", code=2)
    assert "app is not in the lock" in done.stderr
    run(stage, "lock", "-f", "t.yaml")
    lock(stage, "--check")
    run(stage, "lock", "-f", "t.yaml", "-f", "s.yaml", "--check")
    assert Path("stack.lock").stat().st_mode & 0o777 == 0o640


def test_a_half_written_lock_of_a_killed_one_is_written_over(stage: Stage) -> None:
    Path(".stack.lock.new").write_text("version: ")
    lock(stage)
    lock(stage, "--check")
    assert not Path(".stack.lock.new").exists()


def test_another_file_is_written_and_checked_on_demand(stage: Stage) -> None:
    lock(stage, "--lock", "other.lock")
    assert not Path("stack.lock").exists()
    lock(stage, "--lock", "other.lock", "--check")
    Path("other.lock").write_text("version: 3\nstacks: {}\n")
    done = lock(stage, "--lock", "other.lock", "--check", code=2)
    assert "--> other.lock:1:10" in done.stderr


def test_a_broken_lock_is_told_with_its_place(stage: Stage) -> None:
    Path("stack.lock").write_text("version: 1\nstacks: {s: {rootfs: {app: {}}}}\n")
    done = run(stage, "apply", "-f", "s.yaml", code=2)
    assert "app expects exactly one of image, archive or recipe" in done.stderr
    assert "--> stack.lock:2" in done.stderr


def test_misuse_is_told(stage: Stage) -> None:
    assert "exclude each other" in lock(stage, "--check", "--update", code=2).stderr
    assert "needs --update" in lock(stage, "db", code=2).stderr
    assert "no root that can be locked is called 'x'" in lock(stage, "--update", "x", code=2).stderr


def test_a_stack_that_wants_nothing_needs_no_lock(stage: Stage) -> None:
    Path("s.yaml").write_text("stack: s\ncontainers:\n  a: {rootfs: host, command: [a], networks: []}\n")
    assert "nothing to lock" in lock(stage).stdout
    assert not Path("stack.lock").exists()
    lock(stage, "--check")


def test_the_lock_is_among_what_a_watch_looks_at(stage: Stage) -> None:
    assert os.path.abspath("stack.lock") in reading.read(stage.open(), ["s.yaml"], [], {}).files


def test_paths_are_relative_to_the_lock_so_that_it_can_move(stage: Stage, tmp_path: Path) -> None:
    edit("registry.example/app:1", "oci:./layout:app")
    stage.images.pins["layout:app"] = pin(ONE)
    lock(stage)
    assert "image: oci:layout:app" in Path("stack.lock").read_text()
    assert str(tmp_path) not in Path("stack.lock").read_text()
    (tmp_path / "moved").mkdir()
    for name in ("s.yaml", "stack.lock"):
        Path(name).rename(f"moved/{name}")
    run(stage, "lock", "-f", "moved/s.yaml", "--check")
