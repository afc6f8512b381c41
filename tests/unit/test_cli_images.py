"""Images on their way through plan and apply: looked up, fetched, refused at their place, over invented images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.model.images import ImageConfig, Pin
from tests.unit.fake_app import Stage

ONE, TWO = ("sha256:" + digit * 64 for digit in "12")
TEXT = """\
stack: s
rootfs:
  app: {image: "registry.example/app:1"}
containers:
  a: {rootfs: app, networks: []}
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    (tmp_path / "s.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    stage = Stage(tmp_path)
    stage.images.pins["/app:1"] = Pin(digest=ONE, config=ImageConfig(command=("sleep", "9")), size=2 << 20)
    return stage


def run(stage: Stage, *arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, arguments, obj=stage.open)
    assert done.exit_code == code, done.output
    return done


def test_plan_looks_up_and_fetches_nothing(stage: Stage) -> None:
    found = json.loads(run(stage, "plan", "-f", "s.yaml", "-o", "json").stdout)
    changes = {each["ref"]: each for each in found["plans"][0]["changes"]}
    assert changes["rootfs/app"]["verb"] == "create"
    assert stage.images.asked and not stage.images.fetched
    run(stage, "validate", "-f", "s.yaml")
    run(stage, "graph", "-f", "s.yaml")
    assert len(stage.images.asked) == 1


def test_apply_fetches_before_it_commits(stage: Stage) -> None:
    done = run(stage, "apply", "-f", "s.yaml")
    assert "pulling docker://registry.example/app:1  1MiB of 2MiB (50 %)" in done.stderr
    assert stage.images.fetched
    run(stage, "plan", "-f", "s.yaml", "--check")
    stage.images.broken = "the registry is gone"
    done = run(stage, "apply", "-f", "s.yaml", code=2)
    assert "error[ORC402]: the registry is gone" in done.stderr
    assert "--> s.yaml:3:16" in done.stderr
    assert stage.open().revision("s") == 1


def test_what_a_tag_names_by_now_is_another_root(stage: Stage) -> None:
    run(stage, "apply", "-f", "s.yaml")
    stage.images.pins["/app:1"] = Pin(digest=TWO, config=ImageConfig(command=("sleep", "99")))
    done = run(stage, "plan", "-f", "s.yaml", "--check", code=3)
    assert "source.digest  sha256:111111111111 -> sha256:222222222222" in done.stdout
    assert "99" in done.stdout
    run(stage, "apply", "-f", "s.yaml")
    run(stage, "plan", "-f", "s.yaml", "--check")


def test_an_image_that_is_nowhere_is_told_at_its_place(stage: Stage) -> None:
    stage.images.pins.clear()
    done = run(stage, "plan", "-f", "s.yaml", code=2)
    assert "error[ORC402]: docker://registry.example/app:1: not found" in done.stderr
    assert "^^^^" in done.stderr and "look it up" in done.stderr
    assert stage.open().revision("s") is None


def test_an_archive_without_a_digest_is_pinned(stage: Stage) -> None:
    stage.images.pins["a.tar"] = Pin(digest=TWO)
    text = TEXT.replace('image: "registry.example/app:1"', "archive: ./a.tar").replace(
        "networks: []", 'networks: [], command: [sleep, "9"]'
    )
    Path("s.yaml").write_text(text)
    found = json.loads(run(stage, "plan", "-f", "s.yaml", "-o", "json").stdout)
    assert TWO.removeprefix("sha256:") in json.dumps(found) or found["plans"][0]["changes"]
    run(stage, "apply", "-f", "s.yaml")
    stack = stage.open().recorded("s")
    assert stack is not None and TWO.removeprefix("sha256:") in repr(stack.resources)
