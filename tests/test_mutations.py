"""What `mutations.py` changes: every threshold is in one of its tables, and these tables name nothing that is gone."""

from __future__ import annotations

import pytest

import mutations


@pytest.mark.parametrize("file", mutations.MOVED)
def test_every_threshold_is_moved_or_changes_no_result(file: str) -> None:
    text = (mutations.ROOT / file).read_text(encoding="utf-8")
    moved, not_moved = mutations.MOVED[file], mutations.CHANGES_NO_RESULT[file].keys()
    assert sorted([*moved, *not_moved]) == sorted(mutations.constants(file, text))


def test_every_change_that_has_a_reason_is_one_of_those_made() -> None:
    made = mutations.mutations()
    for file, part, _ in mutations.EQUIVALENT:
        assert any(change.file == file and part in change.line() for change in made), part


def test_comments_and_texts_are_left_alone() -> None:
    text = 'int a = b - 1;  // c - 1\nconst char* d = "e - 1";\n#if f - 1\n'
    assert mutations.code_of("csrc/x.h", text).split() == [
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
    text = '"""a - 1"""\nfrom b import c\n# d - 1\nlines = ["e - 1"]\n'
    assert mutations.code_of("x.py", text).split() == ["lines", "=", '["e', "-", '1"]']
