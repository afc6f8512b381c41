"""Run a command in an emulated machine: Debian's kernel, pure cgroup v2, the host's / read-only, root, loopback only.

In: the folder made by `setup.sh`, a command, a timeout. Out: the command's output as it comes, its exit status and the
kernel's console. The checkout and its interpreter are found at their own paths, wherever they lie.
Command line: python -m tests.vm.machine [--timeout SECONDS] COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
COVERED = ("/tmp", "/run", "/root", "/mnt")
"""Folders of the host that the guest covers with its own; what lies there is shared by a tag of its own."""
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
STATE_DISK = "/mnt/state"
"""An empty ext4 disk of the guest's own, with project quotas, gone after the run."""


ALIVE = "ALIVE"
"""What the guest's init writes to the console every 5 s, whatever the job does."""
STANDSTILL = 60.0
"""Seconds without a word on the console after which the emulated machine itself stands still."""


class MachineError(Exception):
    """The machine did not boot, or did not say how the command ended."""


class StandstillError(MachineError):
    """The emulated machine stands still: no timer of its kernel goes off any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """`status` is the command's exit status; `seconds` the wall time from power on to power off."""

    status: int
    output: str
    console: str
    seconds: float


def missing() -> str | None:
    """Why no machine can be set up here, or None. What `setup.sh` can install is not missing."""
    if os.geteuid() != 0:
        return "the emulated machine needs root (virtiofsd serves /)"
    if shutil.which("qemu-system-x86_64") is None and shutil.which("apt-get") is None:
        return "qemu-system-x86_64 is missing and there is no apt-get to install it with"
    return None


def prepare() -> Path:
    """The folder of kernel and initramfs, made by setup.sh if needed. Raises MachineError with what it said."""
    done = subprocess.run(["sh", str(HERE / "setup.sh")], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"tests/vm/setup.sh failed: {done.stderr.strip()[-2000:]}")
    return Path(done.stdout.strip())


def run(
    command: Sequence[str],
    *,
    kernel: Path,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Ended:
    """Boot, run `command` in the checkout's folder, power off. MachineError when it takes longer than `timeout` seconds.

    A machine that stands still is booted once more, and `on_line` is told: that is the emulator's fault, never the job's
    (a job that hangs leaves the console's heartbeat going, and fails).
    """
    script = _script(command, environment or {})
    try:
        return _run(script, kernel, timeout, on_line)
    except StandstillError as error:
        on_line(f"machine: booted once more: {error}")
        return _run(script, kernel, timeout, on_line)


def _run(script: str, kernel: Path, timeout: float, on_line: Callable[[str], None]) -> Ended:
    begun = time.monotonic()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestrator-vm-")))
        shares = {"host": "/"} | {f"share{n}": path for n, path in enumerate(_covered_folders())}
        sockets = {tag: stack.enter_context(_virtiofsd(tag, path, work)) for tag, path in shares.items()}
        initramfs = _initramfs(kernel, work, shares, job=script)
        disk = _state_disk(work)
        console = work / "console.log"
        arguments = _qemu(kernel, initramfs, sockets, disk, console)
        qemu = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        guard = _Guard(qemu, console, begun + timeout)
        guard.start()
        lines = []
        try:
            assert qemu.stdout is not None
            for raw in qemu.stdout:
                lines.append(raw.decode(errors="replace").rstrip("\r\n"))
                on_line(lines[-1])
            qemu.wait()
        finally:
            qemu.kill()
            qemu.wait()
            guard.join()
        log = console.read_text(errors="replace") if console.exists() else ""
    status = _status(log)
    if status is None:
        tail = [*lines[-30:], "--- console", *(line for line in log.splitlines() if line != ALIVE)][-60:]
        raise (StandstillError if guard.stood_still else MachineError)(
            "\n".join([f"{guard.why}; last output:", *tail])
        )
    return Ended(status=status, output="\n".join(lines), console=log, seconds=time.monotonic() - begun)


class _Guard(threading.Thread):
    """Ends the emulator at the deadline, and earlier when the console has been silent for STANDSTILL seconds."""

    def __init__(self, qemu: subprocess.Popen[bytes], console: Path, deadline: float) -> None:
        super().__init__(name="machine-guard", daemon=True)
        self._qemu, self._console, self._deadline = qemu, console, deadline
        self.why, self.stood_still = "the machine stopped early", False

    def run(self) -> None:
        size, since = -1, time.monotonic()
        while self._qemu.poll() is None:
            now = time.monotonic()
            if (found := self._console.stat().st_size if self._console.exists() else 0) != size:
                size, since = found, now
            self.stood_still = now - since > STANDSTILL
            if self.stood_still or now > self._deadline:
                silent = f"no word on the console for {STANDSTILL:.0f} s"
                self.why = silent if self.stood_still else "no end within the time given"
                self._qemu.kill()
                return
            time.sleep(0.5)


def _status(console: str) -> int | None:
    for line in reversed(console.splitlines()):
        if line.startswith("JOB-EXIT "):
            return int(line.split()[1])
    return None


def _covered_folders() -> list[str]:
    """The checkout and the interpreter's folders where the guest's own folders would hide them."""
    wanted = {CHECKOUT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    hidden = sorted(str(each) for each in wanted if str(each).startswith(tuple(f"{c}/" for c in COVERED)))
    return [each for each in hidden if not any(each.startswith(f"{other}/") for other in hidden)]


def _script(command: Sequence[str], environment: Mapping[str, str]) -> str:
    variables = {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", **environment}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return f"{exports}cd {shlex.quote(str(CHECKOUT))}\nexec {shlex.join(command)}\n"


def _initramfs(kernel: Path, work: Path, shares: Mapping[str, str], *, job: str) -> Path:
    """The prepared archive with a second one behind it that holds this boot's /job."""
    from tests.vm.initramfs import pack

    folder = work / "job-archive"
    (folder / "job").mkdir(parents=True)
    (folder / "job/run").write_text(job)
    (folder / "job/shares").write_text("".join(f"{t} {p}\n" for t, p in shares.items() if t != "host"))
    pack(folder, work / "job.cpio")
    whole = work / "initramfs.cpio"
    with whole.open("wb") as target:
        for part in (kernel / "initramfs.cpio", work / "job.cpio"):
            content = part.read_bytes()
            target.write(content + bytes(-len(content) % 4))
    return whole


def _state_disk(work: Path) -> Path:
    disk = work / "state.img"
    with disk.open("wb") as target:
        target.truncate(1 << 30)
    quotas = ("-O", "quota,project", "-E", "quotatype=prjquota")
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", *quotas, str(disk)], check=True, env={**os.environ, "PATH": _sbin_path()}
    )
    return disk


def _sbin_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@contextmanager
def _virtiofsd(tag: str, folder: str, work: Path) -> Iterator[Path]:
    """Serve `folder` on a socket until the block ends."""
    if not Path(VIRTIOFSD).exists():
        raise MachineError(f"{VIRTIOFSD} is missing: run tests/vm/setup.sh")
    path = work / f"{tag}.sock"
    log = (work / f"{tag}.log").open("wb")
    options = ["-o", f"source={folder}", "-o", "cache=always", "-o", "sandbox=chroot"]
    daemon = subprocess.Popen([VIRTIOFSD, f"--socket-path={path}", *options], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise MachineError(f"virtiofsd for {folder}: {(work / f'{tag}.log').read_text()[-500:]}")
            time.sleep(0.01)
        yield path
    finally:
        daemon.kill()
        daemon.wait()
        log.close()


def _qemu(kernel: Path, initramfs: Path, sockets: Mapping[str, Path], disk: Path, console: Path) -> list[str]:
    memory = "1536M"
    image = next((kernel / "boot").glob("vmlinuz-*"))
    files = [
        part
        for tag, path in sockets.items()
        for part in (
            *("-chardev", f"socket,id={tag},path={path}"),
            *("-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"),
        )
    ]
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", memory),
        *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on", "-numa", "node,memdev=memory"),
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-serial", f"file:{console}", "-serial", "stdio"),
        *files,
        *(
            "-drive",
            f"file={disk},if=none,id=disk,format=raw,cache=unsafe",
            "-device",
            "virtio-blk-pci,drive=disk",
        ),
        *("-kernel", str(image), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1 tsc=unstable psi=1"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds")
    parser.add_argument("--console", action="store_true", help="print the kernel's console afterwards")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.command[:1] == ["--"]:
        del arguments.command[0]
    reason = missing()
    if reason is not None or not arguments.command:
        parser.error(reason or "no command")
    ended = run(
        arguments.command,
        kernel=prepare(),
        timeout=arguments.timeout,
        on_line=lambda line: print(line, flush=True),
    )
    if arguments.console:
        print(ended.console, file=sys.stderr)
    print(f"machine: {ended.seconds:.1f} s, exit {ended.status}", file=sys.stderr)
    return ended.status


if __name__ == "__main__":
    sys.exit(main())
