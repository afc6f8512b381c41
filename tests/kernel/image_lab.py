"""Images and registries for tests: images as blobs in memory, Debian's docker-registry on loopback, and a registry of our
own that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from orchestrator.drivers.rootfs.oci.manifests import architecture
from tests.kernel.layer_lab import Entry, file, folder, packed, sha256, symlink
from tests.waiting import until

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digested(raw: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(raw), "size": len(raw), **more}


@dataclass
class Image:
    """`blobs` by digest, its manifest and config among them."""

    tars: list[bytes]
    blobs: dict[str, bytes]
    manifest: bytes
    config: bytes

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    @property
    def layers(self) -> list[str]:
        return [each["digest"] for each in json.loads(self.manifest)["layers"]]


def image(*layers: Sequence[Entry], said: Any = None, plain: bool = False, arch: str | None = None) -> Image:
    """Layers lowest first. `said`: what its config says of how it is run."""
    tars = [packed(*each) for each in layers]
    packs = tars if plain else [gzip.compress(each, 1, mtime=0) for each in tars]
    config = json.dumps(
        {
            "architecture": arch or architecture(),
            "os": "linux",
            "config": said or {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(each) for each in tars]},
        }
    ).encode()
    kind = LAYER if plain else f"{LAYER}+gzip"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": digested(config, CONFIG),
            "layers": [digested(each, kind) for each in packs],
        }
    ).encode()
    blobs = {sha256(each): each for each in (*packs, config, manifest)}
    return Image(tars, blobs, manifest, config)


def index(*images: tuple[Image, dict[str, str]]) -> Image:
    """Of several platforms; `digest` is the index's."""
    entries = [digested(each.manifest, MANIFEST, platform=about) for each, about in images]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    blobs = {digest: blob for each, _ in images for digest, blob in each.blobs.items()}
    return Image([], {**blobs, sha256(raw): raw}, raw, b"")


def layout(place: Path, **images: Image) -> Path:
    """An OCI layout of images by their tags."""
    entries = []
    (place / "blobs" / "sha256").mkdir(parents=True)
    for tag, each in images.items():
        kind = json.loads(each.manifest)["mediaType"]
        entries.append(digested(each.manifest, kind, annotations={"org.opencontainers.image.ref.name": tag}))
        for digest, blob in each.blobs.items():
            (place / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(blob)
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place


def docker_save(path: Path, each: Image, *tags: str, gz: bool = False) -> Path:
    """As docker save wrote it before version 25: a folder a layer; a layer that is there twice is a symlink."""
    members: dict[str, bytes | str] = {"c.json": each.config}
    names, first = [], {}
    for number, tar in enumerate(each.tars):
        names.append(name := f"layer{number}/layer.tar")
        members[name] = f"../{first[tar]}" if tar in first else tar
        first.setdefault(tar, name)
    saved = [{"Config": "c.json", "RepoTags": list(tags), "Layers": names}]
    members["manifest.json"] = json.dumps(saved).encode()
    with tarfile.open(path, "w:gz" if gz else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def shell() -> list[Entry]:
    """A layer in which /bin/sh and its tools really run: Debian's static busybox."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox-static is not installed"
    names = ("sh", "cat", "sleep", "id", "ls", "hostname", "httpd")
    return [
        *(folder(each) for each in ("bin", "etc", "proc", "sys", "dev", "run", "tmp")),
        file("bin/busybox", Path(busybox).read_bytes(), mode=0o755),
        *(symlink(f"bin/{each}", "busybox") for each in names),
        file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
        file("etc/group", b"root:x:0:\n"),
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class Registry:
    """Debian's docker-registry. `address` is HOST:PORT, in the network namespace that `inside` leads to."""

    address: str
    base: Path
    process: subprocess.Popen[bytes]
    inside: tuple[str, ...] = ()

    def push(self, each: Image, name: str, *flags: str) -> None:
        place = layout(self.base / f"push-{len(list(self.base.iterdir()))}", x=each)
        plain = () if flags else ("--dest-tls-verify=false",)
        subprocess.run(
            [
                *self.inside,
                "skopeo",
                "copy",
                "-q",
                "--all",
                *(flags or plain),
                f"oci:{place}:x",
                f"docker://{self.address}/{name}",
            ],
            check=True,
        )

    def blobs_served(self) -> int:
        """How many times a blob was sent whole."""
        said = (self.base / "log").read_text()
        return len(re.findall(r'"GET /v2/\S+/blobs/\S+ HTTP[^"]*" 200', said))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def blob(self, digest: str) -> Path:
        """Where the registry keeps it."""
        hexed = digest.removeprefix("sha256:")
        return self.base / "storage/docker/registry/v2/blobs/sha256" / hexed[:2] / hexed / "data"

    def gets(self, digest: str) -> int:
        """How often a blob was asked for."""
        said = (self.base / "log").read_text()
        return len(re.findall(rf'"GET /v2/\S+/blobs/{digest} HTTP[^"]*" 200', said))


@contextlib.contextmanager
def registry(
    base: Path,
    *,
    users: str | None = None,
    tls: tuple[Path, Path] | None = None,
    netns: str | None = None,
) -> Iterator[Registry]:
    """`users`: what htpasswd -B made; `tls`: certificate and key; `netns`: a named network namespace to serve in."""
    base.mkdir(parents=True, exist_ok=True)
    inside = ("nsenter", f"--net=/run/netns/{netns}", "--") if netns else ()
    port = free_port()
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(base / "storage")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "x"},
    }
    if tls:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    if users:
        (base / "users").write_text(users)
        config["auth"] = {"htpasswd": {"realm": "here", "path": str(base / "users")}}
    (base / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with open(base / "log", "wb") as log:
        process = subprocess.Popen(
            [*inside, "docker-registry", "serve", base / "config.yml"],
            stdout=log,
            stderr=log,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        until(lambda: "listening on" in (base / "log").read_text() or process.poll() is not None)
        assert process.poll() is None, (base / "log").read_text()
        yield Registry(f"127.0.0.1:{port}", base, process, inside)
    finally:
        process.kill()
        process.wait()


@dataclass
class Faulty:
    """A registry of ours. `names`: repository:tag -> digest. `cut`: blobs of which half is sent, then the connection ends;
    `hold`: of which the second half waits for `released`; `status`: what all requests are answered with."""

    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)
    hold: set[str] = field(default_factory=set)
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    answer: tuple[int, bytes] | None = None

    def add(self, each: Image, name: str = "app:1") -> str:
        self.blobs |= each.blobs
        self.names[name] = each.digest
        return f"docker://{self.address}/{name}"

    def count(self, digest: str) -> int:
        return self.gets.count(digest)


@contextlib.contextmanager
def faulty() -> Iterator[Faulty]:
    here = Faulty()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if here.answer is not None:
                return self._send(here.answer[0], here.answer[1], "application/json")
            if self.path == "/v2/":
                return self._send(200, b"{}", "application/json")
            found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/(.+)", self.path)
            assert found, self.path
            digest = here.names.get(f"{found[1]}:{found[3]}", found[3])
            here.gets.append(digest)
            raw = here.blobs.get(digest)
            if raw is None:
                return self._send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', "application/json")
            kind = "application/octet-stream"
            if found[2] == "manifests":
                kind = INDEX if b'"manifests"' in raw else MANIFEST
            return self._send(200, raw, kind, digest)

        def _send(self, status: int, raw: bytes, kind: str, digest: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if self.command == "HEAD":
                return
            half = len(raw) // 2
            with contextlib.suppress(OSError):
                self.wfile.write(raw[:half])
                self.wfile.flush()
                if digest in here.cut:
                    self.close_connection = True
                    return
                if digest in here.hold:
                    here.held.set()
                    here.released.wait(30)
                self.wfile.write(raw[half:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    here.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield here
    finally:
        here.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
