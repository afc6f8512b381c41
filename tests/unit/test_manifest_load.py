"""Loading: files, folders, stdin, several files of one stack, env files and their precedence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.manifest import Code, Loaded, load
from orchestrator.manifest.codes import MEANINGS
from orchestrator.model.desired import ContainerSpec, Stack
from orchestrator.model.ids import Kind, Ref
from orchestrator.resolve import resolve_all

A = "stack: s\nrootfs: {base: host}\ncontainers: {a: {rootfs: base, command: [x]}}\n"
B = "stack: s\nnetworks: {n: {}}\ncontainers: {b: {rootfs: base, command: [x]}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(loaded: Loaded) -> list[str]:
    return [str(each.code) for each in resolve_all(loaded)[1]]


def only(loaded: Loaded) -> Stack:
    stacks, diagnostics = resolve_all(loaded)
    assert diagnostics == ()
    return stacks[0]


def container(loaded: Loaded, name: str = "a-1/a") -> ContainerSpec:
    spec = only(loaded).resources[Ref(Kind.CONTAINER, name)]
    assert isinstance(spec, ContainerSpec)
    return spec


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Code)
    assert all(word and not word.endswith(".") for word in MEANINGS.values())


def test_files_of_one_stack_are_joined(folder: Path) -> None:
    (folder / "a.yaml").write_text(A)
    (folder / "b.yml").write_text(B)
    (folder / ".hidden.yaml").write_text("]")
    (folder / "note.txt").write_text("]")
    (folder / "below.yaml").mkdir()
    stack = only(load([str(folder)], {}))
    assert {ref.name for ref in stack.resources if ref.kind is Kind.CONTAINER} == {"a-1/a", "b-1/b"}


def test_what_two_files_declare_is_an_error_at_both_places(folder: Path) -> None:
    (folder / "a.yaml").write_text(A + "limits: {cpus: 1}\n")
    (folder / "b.yaml").write_text(A + "limits: {cpus: 1}\n")
    problems = load(["a.yaml", "b.yaml"], {}).diagnostics
    assert [each.code for each in problems] == [Code.DECLARED_TWICE] * 3
    assert [each.span.file for each in problems if each.span] == ["b.yaml"] * 3
    assert [each.related[0][0].file for each in problems] == ["a.yaml"] * 3


def test_documents_of_one_file_are_stack_files(folder: Path) -> None:
    loaded = load(["-"], {}, stdin=A + "---\n" + B + "---\n" + A.replace("stack: s", "stack: t"))
    assert [each.name for each in loaded.manifests] == ["s", "t"]
    assert len(resolve_all(loaded)[0]) == 2


def test_one_wrong_file_keeps_every_stack_back(folder: Path) -> None:
    loaded = load(
        ["-"], {}, stdin=A + "---\nstack: t\ncontainers: {a: {rootfs: host, command: [x], nonsense: 1}}\n"
    )
    assert resolve_all(loaded)[0] == ()


@pytest.mark.parametrize("path", ["nowhere.yaml", "a\0b", "empty"])
def test_what_cannot_be_read_is_one_clear_error(folder: Path, path: str) -> None:
    (folder / "empty").mkdir()
    (problem,) = load([path], {}).diagnostics
    assert problem.code == Code.UNREADABLE
    assert path in problem.message


def test_wrong_encoding_names_the_line(folder: Path) -> None:
    (folder / "a.yaml").write_bytes(b"stack: s\n# \xff\n")
    (problem,) = load(["a.yaml"], {}).diagnostics
    assert problem.code == Code.ENCODING
    assert "line 2" in problem.message


def test_environment_wins_over_the_env_file_beside(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / ".env").write_text("ONE=file\nTWO=file\n")
    (folder / "sub" / "a.yaml").write_text(A.replace("[x]", '["${ONE}", "${TWO}"]'))
    assert container(load(["sub/a.yaml"], {"ONE": "environment"})).command == ("environment", "file")


def test_variable_is_typed_by_its_field(folder: Path) -> None:
    text = A.replace(
        "command: [x]",
        'command: [x], replicas: "${N}", init: "${T}", limits: {memory: "${M}"}, env: {A: "${N}"}',
    )
    stack = only(load(["-"], {"N": "3", "T": "true", "M": "64MiB"}, stdin=text))
    spec = stack.resources[Ref(Kind.CONTAINER, "a-3/a")]
    assert isinstance(spec, ContainerSpec)
    assert (spec.init, spec.limits.memory, spec.env) == (True, 64 * 2**20, {"A": "3"})


def test_env_files_are_read_in_order_below_env(folder: Path) -> None:
    (folder / "one.env").write_text("A=1\nB=1\nC=1\n")
    (folder / "two.env").write_text("# words\n\nB='2'\nC=2\n")
    loaded = load(["-"], {}, stdin=A.replace("[x]", "[x], env_file: [one.env, two.env], env: {C: 3}"))
    assert container(loaded).env == {"A": "1", "B": "2", "C": "3"}
    places = only(loaded).places
    ref = Ref(Kind.CONTAINER, "a-1/a")
    assert os.path.basename(places[ref, "env.A"].file) == "one.env"
    assert (os.path.basename(places[ref, "env.B"].file), places[ref, "env.B"].line) == ("two.env", 3)
    assert places[ref, "env.C"].file == "<stdin>"


def test_secret_of_an_env_file_is_not_shown(folder: Path) -> None:
    (folder / "one.env").write_text("hunter2\n")
    loaded = load(["-"], {}, stdin=A.replace("[x]", "[x], env_file: one.env"))
    assert found(loaded) == [Code.ENV_FILE]
    assert "hunter2" not in str(loaded.diagnostics) + str(loaded.sources)


def test_paths_are_relative_to_the_file_that_writes_them(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.yaml").write_text(A.replace("[x]", "[x], mounts: [{bind: ../x, target: /x}]"))
    (folder / "b.yaml").write_text(B.replace("[x]", "[x], mounts: [{bind: ./x, target: /x}]"))
    loaded = load(["sub/a.yaml", "b.yaml"], {})
    sources = [mount.source for name in ("a-1/a", "b-1/b") for mount in container(loaded, name).mounts]  # type: ignore[union-attr]
    assert sources == [str(folder / "x")] * 2


def test_everything_that_a_manifest_depends_on_is_told_there_or_not(folder: Path) -> None:
    (folder / "stacks").mkdir()
    (folder / "stacks" / "a.yaml").write_text(
        A.replace("command: [x]", 'command: [x], env: {A: "${A}"}, env_file: [b.env]')
        + "secrets: {s: {file: ../s}}\nconfigs: {c: {file: c.conf}}\n"
    )
    (folder / "stacks" / ".b.yaml.swp").write_text("")
    loaded = load(["stacks", "none.yaml"], {})
    assert loaded.failed
    names = (
        "none.yaml",
        "s",
        "stacks",
        *(f"stacks/{each}" for each in (".env", "a.yaml", "b.env", "c.conf")),
    )
    assert loaded.files == {str(folder / each) for each in (*names, "stacks/stack.lock")}
    assert str(folder / "stacks" / ".env") not in load(["stacks"], {"A": "1"}).files


def test_single_files_that_are_bound_are_known_by_their_inode(folder: Path) -> None:
    (folder / "a.py").write_text("1")
    (folder / "src").mkdir()
    mounts = ", ".join(f"{{bind: ./{name}, target: /{name}}}" for name in ("a.py", "src", "later"))
    (folder / "a.yaml").write_text(A.replace("command: [x]", f"command: [x], mounts: [{mounts}]"))
    loaded = load(["a.yaml"], {})
    assert container(loaded).bound == {str(folder / "a.py"): (folder / "a.py").stat().st_ino}
    assert loaded.bound == {str(folder / "a.py"), str(folder / "later")}
    place = only(loaded).places[Ref(Kind.CONTAINER, "a-1/a"), f"bound.{folder / 'a.py'}"]
    assert (place.file, place.line) == ("a.yaml", 3)
