"""What resolving finds wrong, with its place.

In: paths in the manifest (`"groups", "web", "networks"`). Out: diagnostics.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.manifest.codes import Code
from orchestrator.manifest.load import Manifest

Path = tuple[str | int, ...]


class Report:
    """Gathers diagnostics about one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._root = manifest.root
        self.found: list[Diagnostic] = []

    def span(self, path: Path) -> Span:
        return self._root.find(*path)

    def key(self, *path: str) -> Span:
        """The place of the key itself."""
        return self._root.find(*path, "[key]")

    def written(self, *path: str) -> bool:
        """Whether the key is there, however wrong what it says may be."""
        node = self._root
        for part in path:
            entry = (node.entries or {}).get(part)
            if entry is None:
                return False
            node = entry[1]
        return True

    def fail(
        self, code: Code, message: str, path: Path, *, hint: str | None = None, first: Path | None = None
    ) -> None:
        """`first`: the place that this one clashes with."""
        related = ((self.span(first), "first here"),) if first is not None else ()
        self.found.append(
            Diagnostic(code=code, message=message, span=self.span(path), hint=hint, related=related)
        )


def near(name: str, options: Iterable[str], *, otherwise: str | None = None) -> str | None:
    """A hint with the option that looks like `name`."""
    found = difflib.get_close_matches(name, list(options), 1, 0.6)
    return f'did you mean "{found[0]}"?' if found else otherwise
