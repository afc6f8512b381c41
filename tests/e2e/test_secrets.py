"""Secrets and configs as users meet them: edits reach the process as asked, a secret is nowhere but in its container."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Stage

pytestmark = pytest.mark.root

GREETER = "container/greeter-1/greeter"
CANARIES = ("c4n4ry-one-of-the-secret", "c4n4ry-two-of-the-secret", "c4n4ry-three-of-the-secret")
STACK = """
stack: vault
rootfs: {base: host}
secrets:
  pw: {file: ./pw}
  live: {file: ./live, on_change: {signal: HUP}}
containers:
  keeper:
    rootfs: base
    networks: []
    command: ["sh", "-c", "trap 'echo heard' HUP; while :; do sleep 0.1; done"]
    env: {LEVEL: "${LEVEL:-1}"}
    mounts: [{secret: pw, target: /run/secrets/pw}, {secret: live, target: /run/secrets/live}]
    stop: {signal: KILL}
"""


def until(condition: Callable[[], bool], timeout: float) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.1)


def test_edits_reach_the_process_as_their_on_change_says(stage: Stage) -> None:
    example = "secrets-and-configs.yaml"
    stage.run("apply", "-f", example)
    pid = stage.ps()[GREETER]["pid"]
    stage.edit(example, "hello from", "good day from")
    stage.run("apply", "-f", example)
    until(lambda: "good day from a config" in stage.run("logs", "greeter").out, 10)
    assert stage.ps()[GREETER]["pid"] == pid
    stage.write("files/token", "another")
    planned = stage.run("plan", "-f", example).out
    assert "secret token changed" in planned and "content changed" in planned
    stage.run("apply", "-f", example)
    assert stage.ps()[GREETER]["pid"] != pid
    until(lambda: "(the token has 7 characters)" in stage.run("logs", "greeter").out, 10)
    assert stage.run("plan", "-f", example, "--check").out.startswith("No changes.")


def test_file_meddled_with_is_put_back_without_a_new_process(stage: Stage) -> None:
    stage.run("apply", "-f", "secrets-and-configs.yaml")
    pid = stage.ps()[GREETER]["pid"]
    for each in (stage.root / "run" / "files").glob("*/*"):
        each.write_text("evil")
    stage.run("apply", "-f", "secrets-and-configs.yaml")
    assert stage.run("exec", "greeter", "cat", "/etc/greeting").out == "hello from a config\n"
    assert stage.ps()[GREETER]["pid"] == pid


def _traces(stage: Stage, said: list[str]) -> Iterator[str]:
    """Every place where the canaries stand and must not."""
    allowed = {stage.folder / "pw", stage.folder / "live"}
    for path in (each for each in stage.root.parent.rglob("*") if each.is_file()):
        if path in allowed or path.is_relative_to(stage.root / "run" / "files"):
            continue
        try:
            data = path.read_bytes()
        except OSError:
            assert path.name in ("net", "ipc", "uts"), f"{path} cannot be read"  # a pinned namespace
            continue
        yield from (f"{path}: {each}" for each in CANARIES if each.encode() in data)
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                data = (process / name).read_bytes()
            except OSError:
                continue
            if int(process.name) != os.getpid():
                yield from (f"{process}/{name}: {each}" for each in CANARIES if each.encode() in data)
    for text in said:
        yield from (f"output: {text}" for each in CANARIES if each in text)


def test_secret_is_nowhere_but_in_its_container(stage: Stage) -> None:
    said: list[str] = []

    def run(*arguments: str, code: int = 0, **env: str) -> str:
        done = stage.run(*arguments, code=code, **env)
        said.extend((done.out, done.err))
        return done.out + done.err

    def look() -> None:
        run("ps", "--output", "json")
        run("inspect", "keeper-1/keeper", "--output", "json")
        run("logs", "keeper")
        run("graph", "-f", manifest, "--format", "json")

    manifest = stage.write("vault.yaml", STACK)
    stage.write("pw", CANARIES[0])
    stage.write("live", CANARIES[0])
    run("-v", "apply", "-f", manifest)
    assert stage.run("exec", "keeper", "cat", "/run/secrets/pw").out == CANARIES[0]
    look()
    stage.write("live", CANARIES[1])
    run("plan", "-f", manifest, "--output", "json")
    run("-v", "apply", "-f", manifest)
    until(lambda: "heard" in run("logs", "keeper"), 10)
    assert stage.run("exec", "keeper", "cat", "/run/secrets/live").out == CANARIES[1]
    stage.write("pw", CANARIES[2])
    run("plan", "-f", manifest)
    run("-v", "apply", "-f", manifest)
    assert stage.run("exec", "keeper", "cat", "/run/secrets/pw").out == CANARIES[2]
    look()
    # what goes wrong tells paths alone
    (stage.folder / "pw").unlink()
    assert "pw: no such file or directory" in run("apply", "-f", manifest, code=2)
    stage.write("pw", CANARIES[2] * 60_000)
    assert "larger than 1 MiB" in run("plan", "-f", manifest, code=2)
    stage.write("pw", CANARIES[2])
    assert list(_traces(stage, said)) == []
    secrets = [each.read_text() for each in (stage.root / "run" / "files").glob("*/*")]
    assert sorted(secrets) == sorted(CANARIES[1:]), "the search would not have found them either"
