"""What `mutations.py` changes: every threshold is in one of its tables, and these tables name nothing that is gone."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

import changes


@pytest.mark.parametrize("file", changes.MOVED)
def test_every_threshold_is_moved_or_changes_no_result(file: str) -> None:
    text = (changes.ROOT / file).read_text(encoding="utf-8")
    moved, not_moved = changes.MOVED[file], changes.CHANGES_NO_RESULT[file].keys()
    assert sorted([*moved, *not_moved]) == sorted(changes.constants(file, text))


def test_every_change_that_has_a_reason_is_one_of_those_made() -> None:
    made = changes.mutations()
    for pattern, part, _ in changes.EQUIVALENT:
        assert any(fnmatch(change.file, pattern) and part in change.line() for change in made), part


def test_the_time_loops_are_changed_whatever_their_files_are_called() -> None:
    made = {change.file for change in changes.mutations()}
    for pattern, suite in changes.SIGNS:
        if suite:
            assert any(fnmatch(file, pattern) for file in made), pattern


def test_comments_and_texts_are_left_alone() -> None:
    text = 'int a = b - 1;  // c - 1\nconst char* d = "e - 1";\n#if f - 1\n'
    assert changes.code_of("csrc/x.h", text).split() == [
        "int",
        "a",
        "=",
        "b",
        "-",
        "1;",
        "const",
        "char*",
        "d",
        "=",
        ";",
    ]
    text = '"""a - 1"""\nfrom b import c\n# d - 1\nlines = ["e - 1"]  # f - 1\n'
    assert changes.code_of("fastrnn/x.py", text).split() == ["lines", "=", "[", "]"]
    # Where code is generated, texts are code.
    assert changes.code_of("fastrnn/codegen/x.py", text).split() == ["lines", "=", '["e', "-", '1"]']
