"""The example with images: built by buildah, served by a registry on loopback, run as each image says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.conftest import REPOSITORY, Done, Stage, staged
from tests.kernel.image_lab import Registry, image, registry, shell
from tests.kernel.layer_lab import file, folder
from tests.waiting import until

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Shop:
    """A stage with a registry in its network namespace."""

    stage: Stage
    registry: Registry

    def run(self, *arguments: str, code: int = 0) -> Done:
        return self.stage.run(*arguments, code=code, REGISTRY=self.registry.address)

    def apply(self, code: int = 0) -> Done:
        return self.run("apply", "-f", "images.yaml", "--timeout", "2m", code=code)

    def pids(self) -> dict[str, int]:
        return {ref: each["pid"] for ref, each in self.stage.ps().items()}


@contextmanager
def served(stage: Stage, place: Path) -> Iterator[Registry]:
    with registry(place, netns=stage.netns) as found:
        yield found


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry's storage with the images of the example: filled from where the network is."""
    place = tmp_path_factory.mktemp("registry")
    with registry(place) as there:
        script = REPOSITORY / "examples/images/fill.sh"
        done = subprocess.run(["sh", script, there.address], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def shop(stored: Path) -> Iterator[Shop]:
    with staged() as stage, served(stage, stored) as there:
        shop = Shop(stage, there)
        shop.apply()
        yield shop


def test_each_image_says_how_it_is_run(shop: Shop) -> None:
    page = shop.stage.curl("http://127.0.0.1:8089/").out
    assert page.startswith("hello from the manifest, said by web-")
    found = json.loads(shop.run("inspect", "store", "--output", "json").out)["spec"]
    assert found["command"] == ["entrypoint", "redis-server"]
    assert (found["workdir"], found["stop"]["signal"]) == ("/data", "INT")
    assert found["health"]["probe"]["command"] == ["ready"]
    assert found["env"]["STORE_MEMORY"] == "32mb"
    assert shop.stage.ps()["container/store-1/store"]["health"] == "healthy"
    told = json.loads(
        shop.run("rootfs", "inspect", f"{shop.registry.address}/demo/store:1", "-o", "json").out
    )
    assert told["config"]["config"]["Volumes"] == {"/data": {}} and told["stacks"] == ["images"]
    assert shop.run("plan", "-f", "images.yaml", "--check").out.startswith("No changes.")


def test_the_entrypoint_prepares_its_volume_once_and_lets_go_of_root(shop: Shop) -> None:
    def said(*command: str) -> str:
        return shop.run("exec", "store", "--", *command).out.strip()

    password = (shop.stage.folder / "files/token").read_text().strip()
    assert said("sh", "-c", "stat -c %U /proc/1 /data/initialised") == "redis\nredis"
    first = said("cat", "/data/initialised")
    answer = said("sh", "-c", f"REDISCLI_AUTH='{password}' redis-cli set kept yes")
    assert answer == "OK", "the password is the secret's"
    before = shop.pids()["container/store-1/store"]
    shop.run("kill", "-s", "KILL", "store")
    until(lambda: shop.pids()["container/store-1/store"] not in (None, before))
    until(lambda: shop.stage.ps()["container/store-1/store"]["health"] == "healthy")
    shop.stage.edit("images.yaml", "{STORE_PASSWORD_FILE:", "{STORE_MEMORY: 16mb, STORE_PASSWORD_FILE:")
    shop.apply()
    assert said("cat", "/data/initialised") == first
    assert said("sh", "-c", f"REDISCLI_AUTH='{password}' redis-cli get kept") == "yes"


def test_another_container_of_an_image_copies_nothing(shop: Shop) -> None:
    def store() -> str:
        done = subprocess.run(
            ["du", "-s", "--block-size=1", shop.stage.root / "state/rootfs"],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    size, served = store(), shop.registry.blobs_served()
    shop.stage.edit("images.yaml", "replicas: 2", "replicas: 4")
    shop.apply()
    assert len(shop.pids()) == 5
    assert (store(), shop.registry.blobs_served()) == (size, served)


def test_a_tag_that_moved_is_another_image_where_it_is_asked_always(shop: Shop) -> None:
    before = shop.pids()
    config = {"Cmd": ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]}
    other = image(shell(), [folder("www"), file("www/index.html", b"the next one\n")], said=config)
    shop.registry.push(other, "demo/web:1")
    shop.registry.push(other, "demo/store:1")
    plan = shop.run("plan", "-f", "images.yaml", "--check", code=3).out
    assert "source.digest  sha256:" in plan
    assert "rootfs/web" in plan and "rootfs/store" not in plan, "missing: asked the first time alone"
    assert shop.pids() == before
    shop.apply()
    assert shop.stage.curl("http://127.0.0.1:8089/").out == "the next one\n"
    assert shop.pids()["container/store-1/store"] == before["container/store-1/store"]
    assert shop.run("plan", "-f", "images.yaml", "--check").out.startswith("No changes.")


def test_without_its_registry_an_apply_fails_and_what_runs_stays(shop: Shop) -> None:
    before = shop.pids()
    gone = replace(shop, registry=replace(shop.registry, address="127.0.0.1:9"))
    shop.stage.edit("images.yaml", "hello from the manifest", "hello again")
    failed = gone.apply(code=2)
    assert "error[ORC402]" in failed.err and "cannot reach 127.0.0.1:9: connection refused" in failed.err
    assert "--> images.yaml:" in failed.err
    assert shop.pids() == before
    assert shop.stage.curl("http://127.0.0.1:8089/").code == 0


def test_an_archive_of_a_build_runs_without_a_registry(tmp_path: Path) -> None:
    """We build no Containerfiles: buildah does, and `oci-archive:` takes what it made."""
    (tmp_path / "busybox").write_bytes(Path(os.path.realpath("/bin/busybox")).read_bytes())
    (tmp_path / "busybox").chmod(0o755)
    (tmp_path / "Containerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/sleep\nCOPY busybox /bin/id\n"
        'RUN echo built >/made\nUSER 1000:1000\nCMD ["sleep", "100000"]\n'
    )
    store = ("buildah", "--root", f"{tmp_path}/s", "--runroot", f"{tmp_path}/r", "--storage-driver", "vfs")
    archive = f"{tmp_path}/app.tar"
    for command in (
        (*store, "bud", "--isolation", "chroot", "--tag", "app", tmp_path),
        (*store, "push", "app", f"oci-archive:{archive}"),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    with staged() as stage:
        text = f"stack: app\nrootfs: {{app: {{image: 'oci-archive:{archive}'}}}}\n"
        stage.write(
            "app.yaml", text + "containers: {app: {rootfs: app, networks: [], stop: {signal: KILL}}}\n"
        )
        stage.run("apply", "-f", "app.yaml", "--timeout", "1m")
        done = stage.run("exec", "app", "--", "sh", "-c", "read said </made; echo $said; id -u")
        assert done.out == "built\n1000\n"
