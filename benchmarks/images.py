"""What images cost: a pull beside others' from one registry, a second container, and many containers of one image.

In: an empty folder; mmdebstrap, docker-registry, skopeo, and of the rivals those that are installed. Out: figures.
The image is Debian's essential packages in one gzip layer, served on loopback; every pull starts with nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measures import Say, check_running
from benchmarks.product import CHECKOUT, Product, instance

NEEDED = ("mmdebstrap", "docker-registry", "skopeo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """Median seconds of a pull and unpacking by each tool, or why it was skipped. `bytes`: unpacked, `packed`: to fetch."""

    bytes: int
    packed: int
    seconds: Mapping[str, float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Median seconds from the first step to the last start; `second`: bytes that another container of the image takes in
    the store."""

    count: int
    image: float
    directory: float
    second: int


def missing() -> str | None:
    absent = [each for each in NEEDED if shutil.which(each) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def pull(folder: Path, *, rounds: int, say: Say) -> Pull:
    with registry(folder) as image:
        tools: dict[str, Callable[[Path], tuple[tuple[str, ...], ...]]] = {
            "orchestrator": lambda place: ((*_OURS, str(place), "rootfs", "pull", image.name),),
            "skopeo + umoci": lambda place: (
                ("skopeo", "copy", "--src-tls-verify=false", f"docker://{image.name}", f"oci:{place}/oci:x"),
                ("umoci", "unpack", "--image", f"{place}/oci:x", f"{place}/bundle"),
            ),
            "podman": lambda place: (
                (
                    "podman",
                    "--root",
                    f"{place}/root",
                    "--runroot",
                    f"{place}/run",
                    "--storage-driver",
                    "overlay",
                    "pull",
                    "--tls-verify=false",
                    image.name,
                ),
            ),
        }
        taken: dict[str, list[float]] = {name: [] for name in tools}
        skipped: dict[str, str] = {}
        for turn in range(rounds):
            for name, commands in tools.items():
                place = folder / "place"
                place.mkdir()
                try:
                    if name not in skipped:
                        taken[name].append(_seconds(commands(place)))
                except (FileNotFoundError, RuntimeError) as error:
                    skipped[name] = str(error)[-200:]
                finally:
                    subprocess.run(["umount", place / "root/overlay"], check=False, capture_output=True)
                    shutil.rmtree(place, ignore_errors=True)
            said = ", ".join(f"{name} {each[-1]:.2f} s" for name, each in taken.items() if each)
            say(f"pull {turn + 1}/{rounds}: {said}")
        return Pull(
            bytes=image.bytes,
            packed=image.packed,
            seconds={name: skipped.get(name) or statistics.median(taken[name]) for name in tools},
        )


def start(folder: Path, *, count: int, rounds: int, say: Say) -> Start:
    """`count` containers of one image and of one directory, in alternation."""
    images: list[float] = []
    directories: list[float] = []
    with registry(folder) as image, instance(folder, warm=True) as product:
        roots = {"image": f"{{image: '{image.name}'}}", "directory": f"{{directory: {image.root}}}"}
        product.cli("apply", "-f", _write(folder, roots["image"], 1), "--timeout", "5m")
        before = _size(product.root / "state/rootfs")
        product.cli("apply", "-f", _write(folder, roots["image"], 2), "--timeout", "5m")
        second = _size(product.root / "state/rootfs") - before
        product.delete("bench")
        for turn in range(rounds):
            for name, taken in (("image", images), ("directory", directories)):
                taken.append(_started(product, _write(folder, roots[name], count)))
                check_running(product, count)
                product.delete("bench")
            say(f"N={count} {turn + 1}/{rounds}: image {images[-1]:.2f} s, directory {directories[-1]:.2f} s")
    return Start(
        count=count, image=statistics.median(images), directory=statistics.median(directories), second=second
    )


_OURS = (sys.executable, "-m", "orchestrator", "--root")


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    root: Path
    bytes: int
    packed: int


@contextmanager
def registry(folder: Path) -> Iterator[Image]:
    """A registry on loopback that serves the image, whose root lies in a folder beside; gone with the block."""
    place = folder / "registry"
    place.mkdir()
    root, layer = place / "rootfs", place / "layer.tar"
    command = ["mmdebstrap", "--mode=root", "--variant=essential", "--quiet", "bookworm", str(layer)]
    subprocess.run(command, check=True, capture_output=True)
    root.mkdir()
    subprocess.run(["tar", "-xf", layer, "-C", root, "--numeric-owner", "--exclude=./dev/*"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = place / "config.yml"
    settings.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {place}/data}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
    )
    server = subprocess.Popen(
        ["docker-registry", "serve", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        name = f"127.0.0.1:{port}/bench:1"
        packed = _push(place, layer, name)
        yield Image(name, root, _size(root), packed)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(place, ignore_errors=True)


def _push(place: Path, layer: Path, name: str) -> int:
    """Bytes of the layer as it is served."""
    import gzip
    import hashlib

    blobs = place / "layout/blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    plain = layer.read_bytes()
    layer.unlink()
    diff_id = f"sha256:{hashlib.sha256(plain).hexdigest()}"
    packed = gzip.compress(plain, 6, mtime=0)
    kind = "application/vnd.oci.image"
    about = {
        "architecture": _architecture(),
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    config = {"mediaType": f"{kind}.config.v1+json", **put(json.dumps(about).encode())}
    layers = [{"mediaType": f"{kind}.layer.v1.tar+gzip", **put(packed)}]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": config,
        "layers": layers,
    }
    entry = {"mediaType": f"{kind}.manifest.v1+json", **put(json.dumps(manifest).encode())}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (place / "layout/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (place / "layout/oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    command = ["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false"]
    deadline = time.monotonic() + 20
    while (
        done := subprocess.run(
            [*command, f"oci:{place}/layout:1", f"docker://{name}"],
            capture_output=True,
            text=True,
            check=False,
        )
    ).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(done.stderr[-300:])
        time.sleep(0.1)
    return len(packed)


def _architecture() -> str:
    done = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _seconds(commands: tuple[tuple[str, ...], ...]) -> float:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    begun = time.monotonic()
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.strip()}")
    return time.monotonic() - begun


def _write(folder: Path, rootfs: str, count: int) -> str:
    containers = "".join(
        f"  c{i}: {{rootfs: base, command: [/bin/sleep, '{1_000_000 + i}'], stop: {{grace: 0s, signal: KILL}}}}\n"
        for i in range(count)
    )
    path = folder / "bench.yaml"
    networks = "networks: {default: {subnet: 10.213.0.0/20}}"
    path.write_text(f"stack: bench\nrootfs: {{base: {rootfs}}}\n{networks}\ncontainers:\n{containers}")
    return str(path)


def _started(product: Product, path: str) -> float:
    from benchmarks import records

    before = records.last_run(product.root)
    product.cli("apply", "-f", path, "--timeout", "10m")
    return records.bring_up_seconds(product.root, since=before)


def _size(folder: Path) -> int:
    """Bytes on disk."""
    done = subprocess.run(["du", "-s", "--block-size=1", folder], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])
