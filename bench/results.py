"""Figures kept as JSON: one file for each command and number of threads, a line for each point."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import Row

FOLDER = Path(__file__).parent / "results"
# What `environment` found, the command, threads and rounds, and the rows.
Result = dict[str, Any]


def save(result: Result, name: str, folder: Path = FOLDER) -> Path:
    """Write a result; the file it went to."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    head = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1, ensure_ascii=False)
    rows = ",\n".join(f"  {json.dumps(_rounded(row), ensure_ascii=False)}" for row in result["rows"])
    path.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")
    return path


def load(command: str, folder: Path = FOLDER) -> list[Result]:
    """What is kept of a command, fewer threads first; empty if nothing is."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"{command}-*[0-9].json")]
    return sorted(found, key=lambda result: result["threads"])


def all_rows(results: Sequence[Result]) -> list[Row]:
    """The rows of several results, each with its number of threads."""
    return [{"threads": result["threads"], **row} for result in results for row in result["rows"]]


def _rounded(value: Any) -> Any:
    """Numbers with six digits: a clock has no more to say."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
