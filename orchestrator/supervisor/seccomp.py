"""The default system call filter, compiled by libseccomp to the bytes that `LoadSeccomp` carries.

In: the lists below. Out: BPF, base64. Allowed: what ordinary software uses. Known and not listed: EPERM. Newer than
libseccomp: ENOSYS, so that programs fall back. Used by drivers, never in the supervisor; cached where the caller says.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import hashlib
import os
import platform
import struct
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import HostError

# In the spirit of Docker's default list (moby/profiles), less what a container of ours has no capability for.
ALLOWED = """
_llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind breakpoint
brk cachestat cacheflush capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres
clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64
fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex
futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_mempolicy get_robust_list get_thread_area
getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch
inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64
io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr
lstat lstat64 madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat
mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6
pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall
riscv_flush_icache riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_mempolicy set_mempolicy_home_node
set_robust_list set_thread_area set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32
setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
sigaltstack signal signalfd signalfd4 sigprocmask sigreturn socketpair splice stat stat64 statfs statfs64 statmount
statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime
utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
"""
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW* of clone(2)
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
AF_ALG, AF_VSOCK = 38, 40

_VERSION = 1  # of what this module makes: part of the cache's name
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LT, _EQ, _GT, _MASKED = 2, 4, 6, 7
_BAD_ARCH, _OPTIMIZE = 2, 8  # SCMP_FLTATR_ACT_BADARCH, SCMP_FLTATR_CTL_OPTIMIZE (2: a binary tree)
_ARCHES = {
    "x86_64": (0xC000003E, 0x40000003),
    "aarch64": (0xC00000B7, 0x40000028),
}  # AUDIT_ARCH_*: 64 and 32 bits


def default_filter(cache: Path | None = None) -> str:
    """The filter for this machine, base64. Kept in the folder `cache` by libseccomp's version, machine and the lists.

    Raises HostError where libseccomp is missing.
    """
    library = _library()
    path = cache / _name(library) if cache else None
    if path is not None:
        with suppress(OSError):
            return path.read_text()
    text = base64.b64encode(_compile(library)).decode()
    if path is not None:
        with suppress(OSError):  # only slower without it
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(f".{os.getpid()}")
            new.write_text(text)
            new.replace(path)
    return text


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp of seccomp_rule_add(3)."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise HostError("libseccomp is not installed", hint="apt install libseccomp2") from error
    if platform.machine() not in _ARCHES:
        raise HostError(f"no system call filter for {platform.machine()}: x86_64 and aarch64 are known")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint)
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return library


def _name(library: ctypes.CDLL) -> str:
    version = ".".join(str(number) for number in library.seccomp_version()[:3])
    digest = hashlib.sha256(f"{_VERSION} {ALLOWED}".encode()).hexdigest()[:12]
    return f"seccomp-{version}-{platform.machine()}-{digest}"


def _compile(library: ctypes.CDLL) -> bytes:
    native, narrow = _ARCHES[platform.machine()]
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM)))
    try:
        _check(library.seccomp_attr_set(context, _BAD_ARCH, ctypes.c_uint32(_ERRNO | errno.EPERM)))
        _check(library.seccomp_attr_set(context, _OPTIMIZE, ctypes.c_uint32(2)))
        _check(library.seccomp_arch_add(context, ctypes.c_uint32(narrow)))
        for name in ALLOWED.split():
            _rule(library, context, _ALLOW, name)
        _rule(
            library, context, _ERRNO | errno.ENOSYS, "clone3"
        )  # its flags are out of sight: programs fall back to clone
        _rule(library, context, _ALLOW, "clone", (0, _MASKED, NEW_NAMESPACES, 0))
        for value in PERSONALITIES:
            _rule(library, context, _ALLOW, "personality", (0, _EQ, value, 0))
        for comparison in ((0, _LT, AF_ALG, 0), (0, _EQ, AF_ALG + 1, 0), (0, _GT, AF_VSOCK, 0)):
            _rule(library, context, _ALLOW, "socket", comparison)
        return _refuse_unknown(_known(library, native)) + _export(library, context)
    finally:
        library.seccomp_release(context)


def _rule(
    library: ctypes.CDLL, context: ctypes.c_void_p, action: int, name: str, *where: tuple[int, int, int, int]
) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == -1:
        return  # newer than this libseccomp: ENOSYS by `_refuse_unknown`
    comparisons = (_Comparison * max(len(where), 1))(*(_Comparison(*each) for each in where))
    _check(library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(where), comparisons))


def _known(library: ctypes.CDLL, arch: int) -> int:
    """The highest number that this libseccomp knows. From 424 on all architectures share the numbers."""
    for number in range(1000, 424, -1):
        if library.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(arch), number):
            return number
    return 424


def _refuse_unknown(known: int) -> bytes:
    """Three instructions in front: nr > known -> ENOSYS (struct sock_filter: code, jt, jf, k; seccomp(2))."""
    load, above, refuse = (0x20, 0, 0, 0), (0x25, 0, 1, known), (0x06, 0, 0, _ERRNO | errno.ENOSYS)
    return b"".join(struct.pack("=HBBI", *each) for each in (load, above, refuse))


def _export(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    fd = os.memfd_create("seccomp")
    try:
        _check(library.seccomp_export_bpf(context, fd))
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _check(result: int) -> None:
    if result < 0:
        raise HostError(f"libseccomp cannot build the system call filter: {os.strerror(-result).lower()}")
