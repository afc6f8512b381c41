"""Commands inside a running container, and how errors of launching are told.

In: the supervisor's visits and its `LaunchError`s. Out: the same with the ref, the next thing to do, and the exit code
that a shell gives for a command that it cannot run.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from orchestrator.model.ids import Incarnation
from orchestrator.supervisor.client import LaunchError, Visit

NOT_FOUND, NOT_EXECUTABLE = (
    127,
    126,
)  # exit codes of a shell for commands that it cannot run (sh(1p), docker exec)


class Visiting:
    """The supervisor's visit, whose errors are told as those of any exec."""

    def __init__(self, visit: Visit, target: Incarnation) -> None:
        self._visit, self._target = visit, target
        self.terminal = visit.terminal
        self.fileno, self.resize, self.close = visit.fileno, visit.resize, visit.close

    def wait(self) -> int:
        with commanding(self._target):
            return self._visit.wait()


@contextlib.contextmanager
def commanding(target: Incarnation) -> Iterator[None]:
    """Errors of an exec, with the exit code that a shell gives for a command that it cannot run."""
    try:
        yield
    except LaunchError as error:
        told = explained(error, target)
        if error.operation == "Execute":
            told.exit_code = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        raise told from error


def explained(error: LaunchError, target: Incarnation) -> LaunchError:
    """The launcher's error with the ref and the next thing to do. Its words stay: the journal has them too."""
    hint = error.hint
    if error.operation == "Execute" and error.errno == errno.ENOEXEC:
        hint = "is the rootfs for another architecture, or a script without its #! line?"
    told = LaunchError(
        f"{target.ref}: {error.message}",
        call=error.call,
        argument=error.argument,
        errno=error.errno,
        hint=hint,
    )
    told.operation = error.operation
    return told
