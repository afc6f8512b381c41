"""The entry of both resident processes: `keeper RUN`, which detaches itself, and `supervisor RUN`.

In: argv of `python -I -S -c BOOT LIBRARY ROLE RUN` (see `start`). Out: never returns to a caller that waits.
"""

from __future__ import annotations

import os
import sys

from orchestrator.supervisor import seal

LOG = "keeper.log"
_MAX_LOG = 1024 * 1024


def main() -> None:
    _, library, role, run = sys.argv
    seal.reexec()
    if role == "supervisor":
        from orchestrator.supervisor import supervisor

        supervisor.main(run)
        return
    from orchestrator.supervisor import keeper

    # In the foreground: when the command that started us has ended, it is settled who keeps.
    lock = keeper.lock(run)
    if lock is None:
        return
    if role == "keeper":  # "unit": a service manager has detached us already
        _detach()
    _redirect(run)
    interpreter = sys.orig_argv[: sys.orig_argv.index(library)]
    keeper.main(run, lock, [*interpreter, library, "supervisor", run])


def _detach() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()


def _redirect(run: str) -> None:
    """stdin from /dev/null, the rest into a log that is kept short; no folder is held busy."""
    os.chdir("/")
    os.umask(0o077)
    path = f"{run}/{LOG}"
    if os.path.exists(path) and os.path.getsize(path) > _MAX_LOG:
        os.rename(path, f"{path}.1")
    null = os.open("/dev/null", os.O_RDONLY)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, fd in enumerate((null, log, log)):
        os.dup2(fd, target)
