"""From files to stacks that this host can have: what every command with -f begins with, and every watched source.

In: paths, env files, variables. Out: valid stacks, or every diagnostic at once. Touches nothing but
the store of roots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from orchestrator.control.neighbours import owners_first
from orchestrator.diagnostics import Diagnostic, Severity
from orchestrator.errors import HostError, ManifestError
from orchestrator.model.desired import Stack
from orchestrator.model.ids import Kind

if TYPE_CHECKING:  # its libraries are for those who read
    from orchestrator.manifest.load import Loaded, Manifest
    from orchestrator.ports.driver import Problem
    from orchestrator.ports.images import Watch
    from orchestrator.resolve.roots import Pins

HOST_PROBLEM = "ORC401"


class Reader(Protocol):
    """What reading needs of the application."""

    def load(
        self, paths: Sequence[str], env_files: Sequence[str], environ: Mapping[str, str], stdin: str | None
    ) -> Loaded: ...

    def resolve(
        self, manifest: Manifest, pins: Pins | None = None
    ) -> tuple[Stack | None, Sequence[Diagnostic]]: ...

    def pins(self, manifest: Manifest, *, fetch: Watch | None) -> tuple[Pins, Sequence[Diagnostic]]: ...

    def cycles(self, stack: Stack) -> Sequence[Diagnostic]: ...

    def check(self, stack: Stack) -> tuple[Problem, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Valid stacks in the order written, but owners before those who use their things; warnings about them, and their texts
    for showing places. `files`, `bound`: as `Loaded` has them. `manifests`: what they were made of, by name."""

    stacks: tuple[Stack, ...]
    warnings: tuple[Diagnostic, ...]
    sources: Mapping[str, str]
    files: frozenset[str] = frozenset()
    bound: frozenset[str] = frozenset()
    manifests: Mapping[str, Manifest] = field(default_factory=dict)


class InvalidManifest(ManifestError):
    """Carries the texts too, so that source lines can be shown, and what it was read from."""

    def __init__(
        self,
        diagnostics: Sequence[Diagnostic],
        sources: Mapping[str, str],
        *,
        files: frozenset[str],
        bound: frozenset[str],
    ) -> None:
        super().__init__(diagnostics)
        self.sources = sources
        self.files = files
        self.bound = bound


def read(
    app: Reader,
    paths: Sequence[str],
    env_files: Sequence[str],
    environ: Mapping[str, str],
    *,
    stdin: str | None = None,
) -> Read:
    """All stacks of the files, each resolved and free of cycles; raises InvalidManifest with every diagnostic."""
    loaded = app.load(paths, env_files, environ, stdin)
    found: list[Diagnostic] = list(loaded.diagnostics)
    stacks = []
    for manifest in loaded.manifests:
        stack, diagnostics = app.resolve(manifest)
        found += diagnostics
        if stack is not None:
            found += app.cycles(stack)
            stacks.append(stack)
    found = sorted(dict.fromkeys(found), key=lambda each: _place(each, tuple(loaded.sources)))
    if any(each.severity is Severity.ERROR for each in found):
        raise InvalidManifest(found, loaded.sources, files=loaded.files, bound=loaded.bound)
    return Read(
        stacks=owners_first(stacks),
        warnings=tuple(found),
        sources=loaded.sources,
        files=loaded.files,
        bound=loaded.bound,
        manifests={each.name: each for each in loaded.manifests},
    )


def rooted(app: Reader, read: Read, fetch: Watch | None = None) -> Read:
    """The same with every image, recipe and archive looked up, so that it can be planned; with `fetch` they are also had
    here, so that it can be applied. Raises InvalidManifest."""
    stacks = {each.name: each for each in read.stacks}
    found: list[Diagnostic] = []
    for name, manifest in read.manifests.items():
        pins, diagnostics = app.pins(manifest, fetch=fetch)
        found += diagnostics
        if pins and not diagnostics:
            stack, diagnostics = app.resolve(manifest, pins)
            found += diagnostics
            if stack is not None:
                stacks[name] = stack
    if any(each.severity is Severity.ERROR for each in found):
        raise InvalidManifest(found, read.sources, files=read.files, bound=read.bound)
    return replace(read, stacks=tuple(stacks[each.name] for each in read.stacks))


def _place(each: Diagnostic, files: Sequence[str]) -> tuple[int, int, int]:
    """In the order in which one reads the files; what has no place first."""
    if each.span is None:
        return -1, 0, 0
    file = files.index(each.span.file) if each.span.file in files else len(files)
    return file, each.span.line, each.span.column


def check(app: Reader, read: Read) -> None:
    """What this host cannot do of the stacks, at the places that ask for it; raises InvalidManifest.

    What it lacks whatever the stack is (root, a controller) is a HostError.
    """
    found = []
    for stack in read.stacks:
        for problem in app.check(stack):
            if problem.ref.kind is Kind.STACK and not problem.field:
                raise HostError(problem.message, hint=problem.hint)
            field, span = problem.field, stack.places.get((problem.ref, problem.field))
            while span is None and field:
                field = field.rpartition(".")[0]
                span = stack.places.get((problem.ref, field))
            found.append(
                Diagnostic(
                    code=HOST_PROBLEM,
                    message=problem.message if span else f"{problem.ref}: {problem.message}",
                    span=span,
                    hint=problem.hint,
                )
            )
    if found:
        raise InvalidManifest(found, read.sources, files=read.files, bound=read.bound)
