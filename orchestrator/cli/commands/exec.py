"""`exec`: a further process in a running container, with pipes of ours in between, or with a terminal of its own.

Our terminal's descriptors never reach the container: who holds one can type into the terminal (TIOCSTI, ioctl_tty(2)).
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from io import BufferedReader
from typing import BinaryIO, cast

from orchestrator.app import App
from orchestrator.cli import running
from orchestrator.cli.commands.terminal import Ours, converse
from orchestrator.ports.driver import ExecRequest

_CHUNK = 64 * 1024
_LINGER = 1.0  # seconds for output of background processes that the command left behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Ours. `stdin` None: the command reads nothing."""

    stdin: BinaryIO | None
    stdout: BinaryIO
    stderr: BinaryIO


def run(app: App, text: str, request: ExecRequest, streams: Streams) -> int:
    """The command's exit code. Raises UsageError where `text` does not name one running container."""
    target = running.find(app, text)
    with contextlib.ExitStack() as stack:
        stdin = _feed(stack, streams.stdin)
        stdout, out = _drain(stack, streams.stdout)
        stderr, err = _drain(stack, streams.stderr)
        code = app.runtime.exec(target, request, (stdin, stdout, stderr), None)
        os.close(stdout)
        os.close(stderr)
    out.join(_LINGER)
    err.join(_LINGER)
    return code


def run_in_terminal(app: App, text: str, request: ExecRequest, ours: Ours) -> int:
    """The same with a terminal inside, joined to ours."""
    rows, columns = ours.size()
    attached = app.runtime.attach(running.find(app, text), request, rows=rows, columns=columns)
    with contextlib.closing(attached):
        return converse(attached, ours)


def _feed(stack: contextlib.ExitStack, source: BinaryIO | None) -> int:
    """A descriptor for the command's stdin, fed from `source` by a thread."""
    if source is None:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, null)
        return null
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    # A daemon: it may wait for input that never comes when the command has ended.
    threading.Thread(target=_copy_in, args=(source, writing), daemon=True).start()
    return reading


def _drain(stack: contextlib.ExitStack, sink: BinaryIO) -> tuple[int, threading.Thread]:
    """A descriptor for an output of the command, copied to `sink` by a thread that ends when all writers have."""
    reading, writing = os.pipe()
    thread = threading.Thread(target=_copy_out, args=(reading, sink), daemon=True)
    thread.start()
    return writing, thread


def _copy_in(source: BinaryIO, writing: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        while chunk := cast(BufferedReader, source).read1(_CHUNK):
            view = memoryview(chunk)
            while view:
                view = view[os.write(writing, view) :]
    os.close(writing)


def _copy_out(reading: int, sink: BinaryIO) -> None:
    # When our reader is gone, closing our end tells the command by SIGPIPE.
    with contextlib.suppress(OSError, ValueError):
        while chunk := os.read(reading, _CHUNK):
            sink.write(chunk)
            sink.flush()
    os.close(reading)
