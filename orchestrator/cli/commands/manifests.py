"""From files to stacks as the command line means it: relative to where one stands, with its environment and input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orchestrator.app import App
from orchestrator.control import reading
from orchestrator.control.reading import Read
from orchestrator.ports.images import Watch


def read(app: App, paths: Sequence[str], env_files: Sequence[str] = ()) -> Read:
    """All stacks of the files; raises InvalidManifest with every diagnostic."""
    stdin = sys.stdin.read() if "-" in paths else None
    return reading.read(app, paths, env_files, os.environ, stdin=stdin)


def rooted(app: App, read: Read, fetch: Watch | None = None) -> Read:
    """With every image, recipe and archive looked up, and with `fetch` here; raises InvalidManifest."""
    return reading.rooted(app, read, fetch)


def check(app: App, read: Read) -> None:
    """What this host cannot do of them; raises InvalidManifest or HostError."""
    reading.check(app, read)
