"""`exec -t`: our terminal joined to one inside the container, until the command there ends.

In: descriptors of ours and an attached process. Out: its exit code. Our own terminal is raw meanwhile and is put back
however this ends; its descriptors never reach the container.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.ports.driver import Attached

_CHUNK = 64 * 1024
_LINGER = 1.0  # seconds for output of background processes that the command left behind
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """`stdin` None: nothing is typed into the terminal inside."""

    stdin: int | None
    stdout: int

    def size(self) -> tuple[int, int]:
        """Rows and columns of the first of ours that is a terminal."""
        for fd in (self.stdout, self.stdin):
            with contextlib.suppress(OSError):
                if fd is not None:
                    columns, rows = os.get_terminal_size(fd)
                    return rows, columns
        return 24, 80


def converse(attached: Attached, ours: Ours) -> int:
    """The command's exit code; 128 + N where signal N ended us before."""
    os.set_blocking(attached.terminal, False)
    with _raw(ours.stdin), _signals() as signals:
        attached.resize(*ours.size())  # it may have changed before we would have heard of it
        return _Conversation(attached, ours, signals).run()


class _Conversation:
    def __init__(self, attached: Attached, ours: Ours, signals: int) -> None:
        self._attached, self._ours, self._signals = attached, ours, signals
        self._typed = b""
        self._stdin = ours.stdin
        self._silent = False  # nothing more comes out of the terminal

    def run(self) -> int:
        attached = self._attached
        while True:
            ready = self._wait(None, attached.fileno(), self._signals)
            if self._signals in ready:
                number = self._signalled()
                if number:
                    return 128 + number
            self._move(ready)
            if attached.fileno() in ready:
                self._finish()
                return attached.wait()

    def _wait(self, timeout: float | None, *others: int) -> set[int]:
        poll = select.poll()
        for fd in others:
            poll.register(fd, select.POLLIN)
        if not self._silent:
            poll.register(self._attached.terminal, select.POLLIN | (select.POLLOUT if self._typed else 0))
        if self._stdin is not None and len(self._typed) < _CHUNK:
            poll.register(self._stdin, select.POLLIN)
        return {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}

    def _move(self, ready: set[int]) -> None:
        if self._stdin in ready:
            self._read_ours()
        if self._attached.terminal in ready:
            self._write_typed()
            self._show()

    def _read_ours(self) -> None:
        assert self._stdin is not None
        try:
            data = os.read(self._stdin, _CHUNK)
        except OSError:  # the terminal has hung up
            data = b""
        self._typed += data
        if not data:
            self._stdin = None

    def _write_typed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._typed:
                try:
                    self._typed = self._typed[os.write(self._attached.terminal, self._typed) :]
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    self._typed = b""  # nobody inside has it open any more

    def _show(self) -> None:
        try:
            data = os.read(self._attached.terminal, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        self._silent = not data
        view = memoryview(data)
        while view:
            view = view[os.write(self._ours.stdout, view) :]

    def _finish(self) -> None:
        """What the command wrote last is on its way through the kernel; EIO comes when nobody else has the slave."""
        self._stdin, self._typed = None, b""
        end = time.monotonic() + _LINGER
        while not self._silent and (left := end - time.monotonic()) > 0:
            self._move(self._wait(left))

    def _signalled(self) -> int:
        """Take our signals in; the number of one that ends us, or 0."""
        for number in os.read(self._signals, _CHUNK):
            if number in _ENDING:
                return number
            self._attached.resize(*self._ours.size())
        return 0


@contextlib.contextmanager
def _raw(stdin: int | None) -> Iterator[None]:
    """Every key goes inside, Ctrl-C too."""
    if stdin is None:
        yield
        return
    before = termios.tcgetattr(stdin)
    try:
        tty.setraw(stdin, termios.TCSADRAIN)  # what was typed ahead is for the inside
        yield
    finally:
        with contextlib.suppress(termios.error):  # it has hung up
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that gives the numbers of our signals, instead of what they would do (signal.set_wakeup_fd)."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    numbers = (signal.SIGWINCH, *_ENDING)
    before = {each: signal.signal(each, lambda number, frame: None) for each in numbers}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(wakeup)
        for each, handler in before.items():
            signal.signal(each, handler)
        os.close(reading)
        os.close(writing)
