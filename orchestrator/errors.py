"""The exceptions that cross a layer, and the exit codes that they become.

    OrchestratorError            exit 1
    +-- UsageError               exit 2   a wrong command line, an unknown ref
    |   +-- ManifestError        exit 2   what the user wrote; carries every diagnostic at once
    +-- ConflictError            exit 4   somebody else holds the stack
    +-- HostError                exit 1   this host lacks something (root, a controller, space)
    +-- StepError                exit 1   one operation failed: call, argument, errno

Messages are lower case, without a final period; `hint` is the next thing to do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.diagnostics import Diagnostic


class OrchestratorError(Exception):
    """Base of all errors that are told to the user without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OrchestratorError):
    """The command line, or what it names, is wrong."""

    exit_code = 2


class ManifestError(UsageError):
    """What the user wrote has errors; `diagnostics` holds them all."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__(f"{len(diagnostics)} error(s) in the manifest")
        self.diagnostics = tuple(diagnostics)


class ConflictError(OrchestratorError):
    """Another process holds what this command needs."""

    exit_code = 4


class HostError(OrchestratorError):
    """This host cannot do what is asked: no root, no controller, no space."""


class StepError(OrchestratorError):
    """One operation on the world failed. `call`, `argument` and `errno` say which and why."""

    def __init__(
        self,
        message: str,
        *,
        call: str | None = None,
        argument: str | None = None,
        errno: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.call = call
        self.argument = argument
        self.errno = errno

    @classmethod
    def of(cls, what: str, error: OSError, *, hint: str | None = None) -> StepError:
        """`what` failed with an OSError; keeps its path and errno."""
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
        text = (error.strerror or str(error)).lower()
        return cls(
            f"{what}: {path}: {text}" if path else f"{what}: {text}",
            argument=path,
            errno=error.errno,
            hint=hint,
        )
