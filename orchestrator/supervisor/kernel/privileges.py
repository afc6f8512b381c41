"""Capabilities (capabilities(7)) and seccomp filters (seccomp(2)) of the calling process."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable

from orchestrator.supervisor.kernel import CallError, call
from orchestrator.supervisor.kernel.processes import PR_CAP_AMBIENT, PR_CAPBSET_DROP, prctl

_LIST = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
NAMES = tuple(_LIST.split())
_NUMBERS = {name: number for number, name in enumerate(NAMES)}
_VERSION_3 = 0x20080522
_AMBIENT_CLEAR_ALL = 4


def bits(names: Iterable[str]) -> int:
    """The mask of capabilities by name, with or without CAP_; raises CallError for an unknown one."""
    mask = 0
    for name in names:
        try:
            mask |= 1 << _NUMBERS[name.upper().removeprefix("CAP_")]
        except KeyError:
            raise CallError(errno.EINVAL, "capset", name) from None
    return mask


def permitted() -> int:
    """The permitted set, from /proc/thread-self/status of the caller (read before the container's /proc is entered)."""
    with open("/proc/thread-self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapPrm:"):
                return int(line.split()[1], 16)
    raise CallError(errno.EIO, "open", "/proc/thread-self/status")


def drop_bounding(keep: int) -> None:
    """Drop every capability that the kernel knows and `keep` lacks from the bounding set (needs SETPCAP)."""
    for number in range(64):
        if not keep >> number & 1:
            try:
                prctl(PR_CAPBSET_DROP, number, about=f"capability {number}")
            except CallError as error:
                if error.errno == errno.EINVAL and number >= len(NAMES):
                    return  # past the last one that this kernel knows
                if error.errno != errno.EINVAL:
                    raise


def clear_ambient() -> None:
    prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, about="clear ambient")


def capset(effective: int, permitted: int, inheritable: int = 0) -> None:
    mask = (effective, permitted, inheritable)
    words = [each & 0xFFFFFFFF for each in mask] + [each >> 32 for each in mask]
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(struct.pack("=6I", *words), 24)
    call("capset", header, data, about=f"{permitted:#x}")


def load_filter(program: bytes) -> None:
    """SECCOMP_SET_MODE_FILTER with a struct sock_filter[]; needs no_new_privs or SYS_ADMIN."""
    if not program or len(program) % 8 or len(program) // 8 > 4096:
        raise CallError(errno.EINVAL, "seccomp", f"a filter of {len(program)} bytes")
    code = ctypes.create_string_buffer(program, len(program))
    prog = ctypes.create_string_buffer(struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code)), 16)
    call("seccomp", 1, 0, prog, about=f"{len(program) // 8} instructions")
