"""Lock files as text: what is written is read again the same; what is wrong is told at its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.manifest.lock import Lock, LockedKind, LockedRoot, lock_text, read_lock

DIGEST = "sha256:" + "ab" * 32
TEXT = f"""\
version: 1
stacks:
  shop:
    rootfs:
      app: {{image: "docker://registry.example/app:1", digest: {DIGEST}}}
"""
WORDS = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["yes", "null", "1.10", "1:2.3", "${HOME}", "a: b", "#"]
)
NAMES = WORDS.filter(lambda each: not any("\ud800" <= char <= "\udfff" for char in each))
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


def roots() -> st.SearchStrategy[LockedRoot]:
    plain = st.builds(
        LockedRoot, kind=st.sampled_from([LockedKind.IMAGE, LockedKind.ARCHIVE]), name=NAMES, digest=DIGESTS
    )
    packages = st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,9}", fullmatch=True), NAMES, max_size=3)
    recipe = st.builds(
        LockedRoot,
        kind=st.just(LockedKind.RECIPE),
        name=NAMES,
        digest=DIGESTS,
        suite=NAMES,
        packages=packages,
    )
    return plain | recipe


KEYS = st.from_regex(r"[a-z][a-z0-9-]{0,5}(\.[a-z]{1,3})?", fullmatch=True)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, roots(), min_size=1, max_size=3), max_size=3))
def test_what_is_written_is_read_again_the_same(stacks: dict[str, dict[str, LockedRoot]]) -> None:
    text = lock_text(Lock(stacks=stacks))
    found, problems = read_lock(text, "stack.lock")
    assert not problems, text
    assert found == Lock(stacks=stacks)
    assert lock_text(found) == text


def test_the_same_lock_is_the_same_bytes_in_whatever_order() -> None:
    one = LockedRoot(kind=LockedKind.IMAGE, name="docker://r/a:1", digest=DIGEST)
    first = Lock(stacks={"a": {"x": one, "y": one}, "b": {"z": one}, "none": {}})
    second = Lock(stacks={"b": {"z": one}, "a": {"y": one, "x": one}})
    assert lock_text(first) == lock_text(second)
    assert "none" not in lock_text(first)


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("version: 1", "version: 2", "version 2 of lock files is not known", 1),
        ("version: 1", "version: true", "version True of lock files is not known", 1),
        ("version: 1\n", "", "the lock lacks version", 1),
        ("stacks:", "more: 1\nstacks:", 'the lock has no key "more"', 2),
        ("    rootfs:", "    roots:", 'a stack has no key "roots"', 4),
        ("digest: sha256:", "digest: sha512:", "digest cannot be this", 5),
        (DIGEST, DIGEST.upper(), "digest cannot be this", 5),
        ("image:", "picture:", "app expects exactly one of image, archive or recipe", 5),
        ("{image", "{archive: x, image", "app expects exactly one of image, archive or recipe", 5),
        ("{image", "{sha256: x, image", 'app has no key "sha256"', 5),
        ("      app", "<<<<<<< HEAD\n      app", "not valid YAML", 5),
        (TEXT, "", "the lock expects a mapping with version, stacks", 1),
        (TEXT, "[]", "the lock expects a mapping with version, stacks", 1),
        (TEXT, TEXT + "---\n" + TEXT, "a lock is one document", 6),
    ],
)
def test_what_is_wrong_is_told_at_its_place(old: str, new: str, message: str, line: int) -> None:
    found, problems = read_lock(TEXT.replace(old, new), "stack.lock")
    assert found is None
    assert message in problems[0].message
    assert problems[0].span is not None and abs(problems[0].span.line - line) <= 1
    assert problems[0].hint


def test_variables_are_not_put_in() -> None:
    found, problems = read_lock(TEXT.replace("app:1", "${HOME}"), "stack.lock")
    assert found is None and problems
