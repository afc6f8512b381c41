"""Make the emulated machine's initramfs: busybox, the kernel modules that the tests need, and `init.sh`.

In: an unpacked kernel package after depmod(8), and the file to write. Out: a newc cpio archive. `machine.py` appends
a second small archive with the job of one boot (the kernel unpacks one after the other).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULES = (
    *("virtio_pci", "virtiofs", "virtio_blk", "quota_v2", "ext4", "overlay"),
    *("veth", "bridge"),
    *("nf_tables", "nft_ct", "nft_nat", "nft_masq", "nft_redir", "nft_chain_nat", "nft_numgen", "nft_hash"),
    *("nft_reject", "nft_reject_ipv4", "nft_reject_inet", "nft_fib", "nft_fib_ipv4", "nft_limit", "nft_log"),
    *("nf_conntrack", "nf_conntrack_netlink", "nfnetlink"),
)
"""Loaded in this order with what they depend on; built-in ones are skipped, unknown ones are errors."""


def load_order(modules: Path) -> list[str]:
    """Paths below `modules` (lib/modules/VERSION), each after everything that it depends on (modules.dep(5))."""
    lines = (modules / "modules.dep").read_text().splitlines()
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in lines)}
    by_name = {_name(path): path for path in needs}
    builtin = {_name(path) for path in (modules / "modules.builtin").read_text().split()}
    order: list[str] = []

    def add(path: str) -> None:
        for need in reversed(needs[path]):
            add(need)
        if path not in order:
            order.append(path)

    for name in MODULES:
        if name in by_name:
            add(by_name[name])
        elif name not in builtin:
            raise SystemExit(f"initramfs.py: the kernel in {modules} has no module {name}")
    return order


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].partition(".")[0].replace("-", "_")


def build(kernel: Path, output: Path) -> None:
    """Write the archive; needs `busybox` (static) and `cpio`."""
    modules = next((kernel / "lib/modules").iterdir())
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("initramfs.py: busybox is missing: apt-get install busybox-static")
    with tempfile.TemporaryDirectory() as text:
        root = Path(text)
        for name in ("bin", "proc", "sys", "dev", "new", "modules"):
            (root / name).mkdir()
        shutil.copy(busybox, root / "bin/busybox")
        order = load_order(modules)
        for path in order:
            shutil.copy(modules / path, root / "modules")
        (root / "modules/order").write_text("".join(f"{Path(path).name}\n" for path in order))
        shutil.copy(Path(__file__).with_name("init.sh"), root / "init")
        (root / "init").chmod(0o755)
        pack(root, output)


def pack(root: Path, output: Path) -> None:
    """All of `root` as one newc archive."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with output.open("wb") as target:
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            input="\n".join(names).encode(),
            stdout=target,
            cwd=root,
            check=True,
        )


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
