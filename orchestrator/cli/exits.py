"""The exit codes of every command: one table, shown by `orchestrator --help`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    SETTLED = 0  # it is as it was asked for
    FAILED = 1  # a step failed, or the host cannot do it
    USAGE = 2  # a wrong command line or manifest; nothing was touched
    CHANGES = 3  # `plan --check` or `lock --check` found changes
    CONFLICT = 4  # somebody else is at work on the stack
    INTERRUPTED = 130  # Ctrl-C


TABLE = """Exit codes: 0 settled · 1 a step failed · 2 usage or manifest ·
3 `plan --check` or `lock --check` found changes · 4 conflict · 130 interrupted"""
