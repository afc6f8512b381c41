"""`rootfs build`: the recipes that stack files name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orchestrator.app import App
from orchestrator.control import reading
from orchestrator.errors import UsageError
from orchestrator.model.images import Recipe
from orchestrator.resolve.roots import wanted_of


def recipes(
    app: App, paths: Sequence[str], env_files: Sequence[str], names: Sequence[str]
) -> tuple[Recipe, ...]:
    """Those of the stack files; raises InvalidManifest, or UsageError where one of the names is none."""
    stdin = sys.stdin.read() if "-" in paths else None
    read = reading.read(app, paths, env_files, os.environ, stdin=stdin)
    wanted = [each for manifest in read.manifests.values() for each in wanted_of(manifest)]
    found = {each.name: each.wish for each in wanted if isinstance(each.wish, Recipe)}
    for name in names:
        if name not in found:
            raise UsageError(f"no recipe is called {name!r}", hint=f"there is {', '.join(found) or 'none'}")
    return tuple(dict.fromkeys(found[each] for each in names or found))
