"""A stage for the real command: a root of its own and a network namespace that stands for the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import App
from orchestrator.control import reading
from orchestrator.ports.layout import Layout
from orchestrator.supervisor.client import Supervisor

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Stage:
    """`root` holds the instance, `folder` a copy of the examples; commands run in the namespace `netns`."""

    root: Path
    folder: Path
    netns: str

    def inside(self, *command: str, stdin: str | None = None, timeout: float = 120, **env: str) -> Done:
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.netns}", "--", *command],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **env},
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, *arguments: str, code: int = 0, stdin: str | None = None, **env: str) -> Done:
        """`orchestrator ARGUMENTS`, which must end with `code`."""
        command = (sys.executable, "-m", "orchestrator", "--root", str(self.root), *arguments)
        done = self.inside(*command, stdin=stdin, **env)
        assert done.code == code, f"{arguments}: exit {done.code}\n{done.out}\n{done.err}"
        assert "Traceback" not in done.err
        return done

    def ps(self) -> dict[str, dict[str, Any]]:
        """Containers by ref, over all stacks."""
        stacks = json.loads(self.run("ps", "--output", "json").out)["stacks"]
        return {each["ref"]: each for stack in stacks for each in stack["containers"]}

    def prepare(self, name: str) -> None:
        """Have the images and recipes of a manifest in the store, from where the network is: the host's namespace."""
        app = App.open(str(self.root))
        found = reading.read(app, [str(self.folder / name)], (), os.environ)
        reading.rooted(app, found, fetch=lambda progress: None)

    def edit(self, name: str, old: str, new: str) -> None:
        place = self.folder / name
        text = place.read_text()
        assert text.count(old) >= 1, f"{name} has no {old!r}"
        place.write_text(text.replace(old, new, 1))

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name

    def curl(self, url: str) -> Done:
        return self.inside("curl", "-sS", "--fail", "--max-time", "10", url)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged() as made:
        yield made


@contextmanager
def staged() -> Iterator[Stage]:
    """A stage for one test, or for the tests of a module that only look."""
    root = Path(tempfile.mkdtemp(prefix="orc-e2e-"))  # short: a Unix socket's path has at most 107 bytes
    netns = root.name
    subprocess.run(["ip", "netns", "add", netns], check=True)
    subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
    folder = root / "work"
    shutil.copytree(REPOSITORY / "examples", folder)
    made = Stage(root / "root", folder, netns)
    try:
        yield made
    finally:
        try:
            names = [each["name"] for each in json.loads(made.run("ls", "--output", "json").out)["stacks"]]
            if names:
                made.run("delete", *names, "--prune-data", "--yes")
        finally:
            Supervisor(Layout.at(made.root)).stop()
            subprocess.run(["ip", "netns", "delete", netns], check=True)
            shutil.rmtree(root, ignore_errors=True)
