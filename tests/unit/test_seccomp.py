"""The default filter as bytes: what it decides is tried out in a real container by the launcher's tests."""

from __future__ import annotations

import base64
import ctypes
from pathlib import Path

import pytest

from orchestrator.errors import HostError
from orchestrator.supervisor import seccomp

FORBIDDEN = (
    "mount umount2 pivot_root move_mount open_tree fsopen fsmount fsconfig mount_setattr setns unshare bpf clone3 "
    "perf_event_open io_uring_setup io_uring_enter io_uring_register userfaultfd keyctl add_key request_key ptrace "
    "process_vm_readv process_vm_writev kexec_load kexec_file_load init_module finit_module delete_module reboot "
    "swapon swapoff acct settimeofday clock_settime sethostname setdomainname iopl ioperm open_by_handle_at "
    "lookup_dcookie quotactl nfsservctl personality socket clone chroot pidfd_getfd kcmp syslog vm86 socketcall"
)


def test_the_list_is_sorted_unique_and_lacks_what_is_forbidden() -> None:
    names = seccomp.ALLOWED.split()
    assert len(set(names)) == len(names)
    assert not set(names) & set(FORBIDDEN.split())


def test_the_filter_is_a_whole_program_that_fits() -> None:
    program = base64.b64decode(seccomp.default_filter())
    assert len(program) % 8 == 0
    assert 100 < len(program) // 8 <= 4096  # BPF_MAXINSNS
    assert seccomp.default_filter() == seccomp.default_filter()


def test_it_is_kept_and_read_back(tmp_path: Path) -> None:
    made = seccomp.default_filter(tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.read_text() == made
    kept.write_text("kept")
    assert seccomp.default_filter(tmp_path / "cache") == "kept"


def test_a_missing_library_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(seccomp.ctypes, "CDLL", missing)
    with pytest.raises(HostError) as caught:
        seccomp.default_filter()
    assert caught.value.hint == "apt install libseccomp2"
