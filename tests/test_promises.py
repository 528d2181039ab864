"""What the suite promises: what it lacks of what it was to test or to compare with fails it, and is not skipped.

The extra `test` promises PyTorch; FASTRNN_REQUIRE_EXT=1 promises the extension, and the compiler that built it.
"""

from __future__ import annotations

import json
from pathlib import Path

from processes import python

HERE = Path(__file__).parent
AGAINST_TORCH = [
    "test_against_torch.py::test_against_torch",
    "test_layers.py::test_same_as_pytorch",
    "test_layers.py::test_parameters_that_require_gradients_load",
    "test_losses.py::test_cross_entropy_is_pytorchs",
    "test_naive.py::test_against_torch",
    "test_optim.py::test_same_as_pytorch",
    "test_optim.py::test_clip_grad_norm_is_pytorchs",
    "test_recurrent.py::test_same_as_pytorch",
    "test_recurrent.py::test_state_dict_has_pytorchs_names_order_and_layouts",
]
OF_THE_EXTENSION = {
    "test_cpp.py::test_every_variant_is_right": "the extension was not built",
    "test_cpp.py::test_numba_is_not_imported": "the extension was not built",
    "test_precision.py::test_layers_and_steps": "the extension was not built",
    "test_kernels.py::test_transpose": "there is no C++ compiler",
}

SESSION = """
import json, sys, pytest

# Neither can be imported.
sys.modules.update({"torch": None, "fastrnn.backends._cpp": None})

class Outcomes:
    def __init__(self):
        self.of = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            name = report.nodeid.partition("[")[0].removeprefix("tests/")
            outcome = report.longrepr[2] if report.skipped else report.outcome
            self.of.setdefault(name, []).append(outcome)

outcomes = Outcomes()
pytest.main(["-p", "no:cacheprovider", *TESTS], plugins=[outcomes])
print()
print(json.dumps(outcomes.of))
"""


def outcomes(**env: str) -> dict[str, list[str]]:
    """Outcomes of each test, or the reason why it was skipped, without PyTorch, the extension, and a compiler."""
    tests = [str(HERE / test) for test in (*AGAINST_TORCH, *OF_THE_EXTENSION)]
    done = python(f"TESTS = {tests!r}\n{SESSION}", CXX="false", **env)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_what_is_promised_and_missing_fails() -> None:
    got = outcomes(FASTRNN_REQUIRE_EXT="1")
    assert got.keys() == {*AGAINST_TORCH, *OF_THE_EXTENSION}
    assert {outcome for of_one in got.values() for outcome in of_one} == {"failed"}


def test_what_was_not_promised_is_skipped_with_the_reason() -> None:
    got = outcomes(FASTRNN_REQUIRE_EXT="")
    for name in AGAINST_TORCH:
        assert set(got[name]) == {"failed"}, name
    for name, reason in OF_THE_EXTENSION.items():
        assert all(outcome.startswith(f"Skipped: {reason}") for outcome in got[name]), (name, got[name])
