"""Secrets and configs before they reach a container: digests, update classes, blobs, the key; what is never told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.drivers.secrets import SecretKey
from orchestrator.errors import ConflictError
from orchestrator.manifest import load
from orchestrator.model import codec
from orchestrator.model.desired import ConfigMount, ContainerSpec, Content, SecretMount, Stack, Update
from orchestrator.model.ids import Kind, Ref
from orchestrator.model.observed import LOST, Observation, Phase
from orchestrator.plan.changes import Change, Policy, Verb
from orchestrator.plan.planner import plan
from orchestrator.ports.layout import Layout
from orchestrator.resolve import resolve
from orchestrator.state import document
from orchestrator.state.blobs import KEPT_REVISIONS, Blobs, kept_documents
from orchestrator.state.store import Store

CANARY = "c4n4ry-of-the-secret"
C = Ref(Kind.CONTAINER, "a-1/a")


def spec(**contents: Content) -> ContainerSpec:
    """A container with the secrets and configs `secret_NAME`, `config_NAME`."""
    keys = {key.replace("_", "/", 1): each for key, each in contents.items()}
    mounts = tuple(
        SecretMount(secret=name, target=f"/{name}")
        if kind == "secret"
        else ConfigMount(config=name, target=f"/{name}")
        for kind, name in (key.split("/") for key in keys)
    )
    return ContainerSpec(rootfs="base", command=("sleep", "9"), mounts=mounts, contents=keys)


def change(
    wish: ContainerSpec,
    applied: ContainerSpec,
    *,
    asked: str | None = None,
    actual: dict[str, Any] | None = None,
) -> Change | None:
    """What a plan does with a running container. `asked`: what was wished of secret `s` when other bytes were used."""
    data = codec.encode(applied)
    if asked is not None:
        data["contents"]["secret/s"]["asked"] = asked
    found = Observation(ref=C, id="1" * 12, phase=Phase.RUNNING, applied=data, actual=actual or {})
    made = plan(Stack(name="s", resources={C: wish}, needs={}), (found,), Policy(), 0.0, name="s")
    return made.changes[0] if made.changes else None


@pytest.mark.parametrize(
    ("update", "verb"),
    [(Update.LIVE, Verb.UPDATE), (Update.RESTART, Verb.RESTART), (Update.REPLACE, Verb.REPLACE)],
)
def test_new_bytes_reach_a_container_as_their_on_change_says(update: Update, verb: Verb) -> None:
    old, new = (spec(config_site=Content(digest=each, update=update)) for each in "ab")
    found = change(new, old)
    assert found is not None
    assert (found.verb, found.reason) == (verb, "config site changed")


def test_another_on_change_with_the_same_bytes_is_only_recorded() -> None:
    old = spec(config_site=Content(digest="a", update=Update.RESTART))
    new = spec(config_site=Content(digest="a", update=Update.LIVE, signal="HUP"))
    found = change(new, old)
    assert found is not None and found.verb is Verb.UPDATE


def test_another_mode_or_owner_is_a_new_process() -> None:
    old = spec(secret_s=Content(digest="a", source="/s", update=Update.LIVE))
    new = replace(old, mounts=(SecretMount(secret="s", target="/s", mode=0o440),))
    found = change(new, old)
    assert found is not None and found.verb is Verb.RESTART


def test_secret_edited_before_the_start_serves_the_old_wish_and_the_new_one() -> None:
    asked, used, other = (spec(secret_s=Content(digest=each, source="/s")) for each in "abc")
    assert change(asked, used, asked="a") is None
    assert change(used, used, asked="a") is None
    found = change(other, used, asked="a")
    assert found is not None and found.verb is Verb.RESTART
    found = change(asked, used)  # the driver says nothing of `asked` where the wished bytes are back
    assert found is not None and found.verb is Verb.RESTART


def test_changed_file_is_put_back_live_and_a_lost_one_by_a_new_process() -> None:
    wish = spec(config_site=Content(digest="a"))
    for now, verb in (("changed", Verb.UPDATE), (LOST, Verb.RESTART)):
        found = change(wish, wish, actual={"contents.config/site": now})
        assert found is not None
        assert (found.verb, found.reason) == (verb, "config site changed behind our back")


def test_lost_file_is_a_new_process_even_when_its_bytes_were_to_change_live() -> None:
    old, new = (spec(config_site=Content(digest=each, update=Update.LIVE)) for each in "ab")
    found = change(new, old, actual={"contents.config/site": LOST})
    assert found is not None and found.verb is Verb.RESTART


def read(folder: Path, key: SecretKey) -> Stack:
    (folder / "s.yaml").write_text(
        "stack: s\nsecrets: {pw: {file: ./pw}}\nconfigs: {site: {content: hello}, spare: {content: unused}}\n"
        "containers: {a: {rootfs: host, command: [x], mounts: ["
        "{secret: pw, target: /pw}, {config: site, target: /site}]}}\n"
    )
    loaded = load([str(folder / "s.yaml")], {})
    stack, diagnostics = resolve(loaded.manifests[0], key.digest)
    assert stack is not None, diagnostics
    assert CANARY not in repr(loaded)
    return stack


def test_stack_holds_a_configs_bytes_and_of_a_secret_a_keyed_digest_alone(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(CANARY)
    key = SecretKey(Layout.at(tmp_path / "root"))
    stack = read(tmp_path, key)
    assert list(stack.blobs.values()) == [b"hello"]
    assert stack.has_secrets
    found = stack.resources[C]
    assert isinstance(found, ContainerSpec)
    assert found.contents["secret/pw"].digest == key.digest(CANARY.encode())
    assert CANARY not in repr(stack) + str(document.encode(stack))
    (tmp_path / "pw").write_text(CANARY + "!")
    other = read(tmp_path, key).resources[C]
    assert isinstance(other, ContainerSpec) and other.contents != found.contents


def test_spec_with_contents_survives_the_codec() -> None:
    whole = spec(secret_s=Content(digest="a", source="/s", update=Update.LIVE, signal="HUP"))
    assert codec.decode(ContainerSpec, codec.encode(whole)) == whole


def test_key_is_kept_by_word_alone_private_and_never_overwritten(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    first, rival = SecretKey(layout), SecretKey(layout)
    digest = first.digest(b"x")
    assert digest != rival.digest(b"x"), "two instances must not share a key"
    assert not layout.state.exists(), "looking made something"
    first.keep()
    assert layout.secret_key.stat().st_mode & 0o7777 == 0o600
    with pytest.raises(ConflictError):
        rival.keep()  # what it has given out is no digest under the key that is kept
    assert rival.digest(b"x") == SecretKey(layout).digest(b"x") == digest


def commit(store: Store, blobs: Blobs, data: bytes) -> str:
    name = f"{data.hex():0>64}"
    with blobs.committing({name: data}):
        resources = {"container/a-1/a": {"contents": {"config/x": {"digest": name}}}}
        store.commit_revision("s", {"resources": resources}, name)
        blobs.collect(kept_documents(store, "s"))
    return name


def test_blobs_stay_as_long_as_one_of_the_last_revisions_names_them(tmp_path: Path) -> None:
    folder = tmp_path / "blobs" / "s"
    blobs = Blobs(folder)
    with Store(tmp_path / "db", clock=lambda: 0.0) as store:
        first = commit(store, blobs, b"first")
        (folder / ("f" * 64)).write_bytes(b"a command was killed before its revision was there")
        names = [commit(store, blobs, b"%d" % each) for each in range(KEPT_REVISIONS - 1)]
        assert {each.name for each in folder.iterdir()} == {first, *names}
        last = commit(store, blobs, b"last")
        assert {each.name for each in folder.iterdir()} == {*names, last}


def test_damaged_blob_is_written_again_by_the_next_commit(tmp_path: Path) -> None:
    folder = tmp_path / "blobs" / "s"
    for _ in range(2):
        with Blobs(folder).committing({"a" * 64: b"whole"}):
            pass
        assert (folder / ("a" * 64)).read_bytes() == b"whole"
        (folder / ("a" * 64)).write_bytes(b"torn")
