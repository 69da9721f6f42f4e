"""What tests an agent's code: tests that test nothing exclude, and no answer turns tests off."""

import pytest

from leyden_platform.settings import CatalogueSettings
from leyden_platform.testing.rollouts import make_task, make_trajectory
from leyden_reward.rewards.grading import Grader
from leyden_reward.rewards.sandbox.plans import Fault, kind_of
from leyden_reward.rewards.sandbox.python_tests import PythonTestsReward
from leyden_reward.rewards.sandbox.sandbox import Sandbox
from leyden_reward.rewards.sandbox.settings import SandboxSettings
from leyden_reward.rewards.verdict import Graded, Reason, Refused, Verdict
from leyden_reward.rewards.workers import RewardWorkers
from leyden_schemas import RewardSpec, encode

RIGHT = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a - b\n"
CASE = """
import unittest
class T(unittest.TestCase):
    def test_a(self):
        self.assertEqual(add(1, 2), 3)
"""
FUNCTION = "def test_a():\n    assert add(1, 2) == 3\n"
CHECK = "METADATA = {'author': 'x'}\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n"
TESTS = {
    "an assert": "assert add(1, 2) == 3",
    "a function": FUNCTION,
    "a coroutine": "async def test_a():\n    assert add(1, 2) == 3\n",
    "a TestCase": CASE,
    "a pytest class": "class TestAdd:\n    def test_a(self):\n        assert add(1, 2) == 3\n",
    "a pytest class with set-up": """
class TestAdd:
    @classmethod
    def setup_class(cls):
        cls.one = 1
    def setup_method(self, method):
        self.two = 2
    def test_a(self):
        assert add(self.one, self.two) == 3
    @staticmethod
    def test_b():
        assert add(1, 1) == 2
""",
    "a coroutine in a TestCase": CASE.replace("def test_a", "async def test_a"),
    "a coroutine in its own TestCase": CASE.replace("def test_a", "async def test_a").replace(
        "TestCase", "IsolatedAsyncioTestCase"
    ),
    "subtests": """
import unittest
class T(unittest.TestCase):
    def test_a(self):
        for number in range(3):
            with self.subTest(number=number):
                self.assertEqual(add(number, 2), number + 2)
""",
    "setUpClass": CASE.replace("2), 3", "2), self.x")
    + "    @classmethod\n    def setUpClass(cls):\n        cls.x = 3\n",
    "setUpModule": "def setUpModule():\n    global X\n    X = 3\n" + CASE.replace("2), 3", "2), X"),
    "inherited tests": CASE.replace("(unittest.TestCase)", "").replace("class T:", "class Base:")
    + "class T(Base, unittest.TestCase):\n    pass\n",
    "an import of the solution": "from solution import add as plus\nassert plus(1, 2) == 3\n",
    "a helper that is called": "def test_one(a, b):\n    assert add(a, b) == a + b\ntest_one(1, 2)\n",
    "a class that it calls": "class Adds:\n    def test_a(self):\n        assert add(1, 2) == 3\n"
    "Adds().test_a()\n",
    "check, called": CHECK + "check(add)\n",
    "a loop": "for a in range(3):\n    assert add(a, 1) == a + 1\n",
    "unittest.main": CASE + "unittest.main()\n",
    "an imported name": "from math import sqrt as test_sqrt\n" + FUNCTION,
    "one that is skipped": FUNCTION
    + "import unittest\n@unittest.skip('later')\ndef test_b():\n    assert False\n",
    "an expected failure": FUNCTION
    + "import unittest\nclass T(unittest.TestCase):\n    @unittest.expectedFailure\n"
    "    def test_b(self):\n        self.assertEqual(add(1, 2), 4)\n",
    "a mock": "from unittest import mock\n@mock.patch('math.pi', 3)\ndef test_a():\n"
    "    import math\n    assert add(math.pi, 0) == 3\n    assert add(0, 3) == 3\n",
}  # fmt: skip


async def judged(code: str, tests: str | list[str], **params: object) -> Verdict:
    """The verdict on code under tests."""
    spec = RewardSpec(name="python_tests", params={"cpu_s": 2, "memory_mb": 256, "tests": tests, **params})
    trajectory = make_trajectory(task=make_task(reward=spec), output=code)
    return await PythonTestsReward(Sandbox(SandboxSettings())).grade(trajectory)


async def worth(code: str, tests: str | list[str], **params: object) -> tuple[float, str]:
    """The reward and the feedback."""
    verdict = await judged(code, tests, **params)
    assert isinstance(verdict, Graded), verdict
    return verdict.terms[0].value, verdict.terms[0].feedback or ""


@pytest.mark.parametrize("tests", TESTS.values(), ids=TESTS)
async def test_right_code_is_worth_one_and_wrong_code_nothing(tests: str) -> None:
    assert await worth(RIGHT, tests) == (1.0, "")
    assert (await worth(WRONG, tests))[0] == 0.0


@pytest.mark.parametrize(
    ("tests", "fault"),
    [
        (CASE.replace("test_a", "check_a"), "assert nothing"),
        ("class Adds:\n    def test_a(self):\n        assert False\n", "assert nothing"),
        ("class TestAdd:\n    pass\n", "assert nothing"),
        ("def helper():\n    assert add(1, 2) == 3\n", "assert nothing"),
        (f"if __name__ == '__main__':\n    check(add)\n{CHECK}", "nothing calls check|assert nothing"),
        ("def test_a():\n    yield\n    assert add(1, 2) == 3\n", "yields"),
        ("def test_a(fixture):\n    assert add(1, 2) == 3\n", "takes arguments"),
        ("class TestAdd:\n    def test_a(self, x):\n        assert add(1, 2) == 3\n", "takes arguments"),
        (CASE.replace("    def", "    @unittest.skip('x')\n    def"), "assert nothing"),
        ("@mark.parametrize('a', [1])\ndef test_a(a):\n    assert add(a, 2) == 3\n", "is parametrized"),
        (CHECK, "params.entry_point"),
        ("def test_a(:", "no Python"),
        ("import no_such_module\nassert add(1, 2) == 3", "import no_such_module, which is not installed"),
    ],
)  # fmt: skip
async def test_tests_that_test_nothing_exclude_whatever_the_code(tests: str, fault: str) -> None:
    for code in (RIGHT, WRONG):
        verdict = await judged(code, ["assert add", tests], partial=True)
        assert isinstance(verdict, Refused), (verdict, code)
        assert verdict.reason is Reason.PARAMS
        assert any(part in verdict.text for part in fault.split("|")), verdict.text


async def test_one_piece_of_no_use_excludes_before_any_code_runs() -> None:
    verdict = await judged("import os; os._exit(0)", ["assert add(1, 2) == 3", "def helper(): pass"])
    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.PARAMS


@pytest.mark.parametrize("tests", ["# to do", "  \n", "import math", "x = 1", ["import math", "'nothing'"]])
async def test_tests_that_do_nothing_exclude(tests: str | list[str]) -> None:
    verdict = await judged(WRONG, tests)
    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.PARAMS
    assert "call and assert nothing" in verdict.text


async def test_a_piece_that_only_sets_up_may_stand_beside_one_that_tests() -> None:
    assert await worth(RIGHT, ["import math", "assert add(1, 2) == 3"]) == (1.0, "")
    assert (await worth(WRONG, ["import math", "assert add(1, 2) == 3"]))[0] == 0.0


async def test_check_is_called_with_the_entry_point() -> None:
    assert await worth(RIGHT, CHECK, entry_point="add") == (1.0, "")
    assert await worth(WRONG, CHECK, entry_point="add") == (0.0, "check: AssertionError:  (tests.py:4)")
    assert await worth("def plus(a, b): return a + b", CHECK, entry_point="add") == (
        0.0,
        "check: NameError: name 'add' is not defined (params.entry_point:1)",
    )
    solution = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
    assert await worth(solution, CHECK, entry_point="Solution().add") == (1.0, "")
    assert await worth(WRONG, "assert add(1, 2) == 3", entry_point="add") == (
        0.0,
        "tests.py: AssertionError:  (tests.py:1)",
    )
    refused = await judged(RIGHT, CHECK, entry_point="add(")
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.PARAMS


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (WRONG + "def test_a(): pass\n", FUNCTION),
        (WRONG + "class T: pass\n", CASE),
        (WRONG + "import unittest\nT = None\n", CASE),
        (WRONG + "class TestAdd: pass\n", TESTS["a pytest class"]),
        (f"```python\n{WRONG}\ndef test_a():\n    assert add(1, 0) == 1\n\ntest_a()\n```", FUNCTION),
        ("import unittest\ndef add(a, b): raise unittest.SkipTest('no')\n", CASE),
        ("import unittest\ndef add(a, b): raise unittest.SkipTest('no')\n", FUNCTION),
        ("def add(a, b):\n    import unittest\n    raise unittest.SkipTest('no')\n", CASE),
        ("def add(a, b):\n    import unittest\n    raise unittest.SkipTest('no')\n", TESTS["setUpClass"]),
        ("def add(a, b): raise SystemExit(0)\n", FUNCTION),
        ("def add(a, b): raise KeyboardInterrupt\n", CASE),
        (WRONG + "import __main__\n__main__.attempt = lambda call: None\n", "assert add(1, 2) == 3"),
        (WRONG + "import __main__\n__main__.test = lambda *a: [['x', None]]\n", FUNCTION),
        (WRONG + "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n", CASE),
        (WRONG + "import unittest\nunittest.TestCase.run = lambda *a: None\n", CASE),
        (WRONG + "from unittest import case\ncase.TestCase.run = lambda *a: None\n", FUNCTION),
        (
            WRONG + "import json\nj = json.dumps\njson.dumps = lambda x: j({**x, 'cases': [['a', None]]})\n",
            FUNCTION,
        ),
        (WRONG + "import builtins\nbuiltins.callable = lambda x: False\n", FUNCTION),
        (WRONG + "import builtins\nbuiltins.isinstance = lambda x, y: False\n", FUNCTION),
        (WRONG + "import inspect, traceback\ninspect.signature = traceback.extract_tb = None\n", FUNCTION),
        (WRONG + "def check(candidate): pass\n", CHECK + "check(add)\n"),
    ],
)
async def test_no_answer_turns_tests_off(code: str, tests: str) -> None:
    value, feedback = await worth(code, tests)
    assert value == 0.0
    assert feedback
    value, _ = await worth(code, [tests, "assert True"], partial=True)
    assert value == 0.5


async def test_half_a_character_in_an_error_excludes_nobody() -> None:
    code = "def add(a, b): raise ValueError('\\ud800')\n"
    spec = RewardSpec(name="python_tests", params={"cpu_s": 2, "memory_mb": 256, "tests": FUNCTION})
    grader = Grader(
        RewardWorkers(CatalogueSettings()),
        others={"python_tests": PythonTestsReward(Sandbox(SandboxSettings()))},
    )
    verdict = await grader.grade(make_trajectory(task=make_task(reward=spec), output=code))
    assert isinstance(verdict, Graded)
    assert verdict.terms[0].value == 0.0
    assert encode(make_trajectory(final=list(verdict.terms)))


async def test_tests_of_the_answers_own_do_not_count_in_part() -> None:
    two = FUNCTION + "def test_zero():\n    assert add(0, 0) == 0\n"
    assert (await worth(WRONG + "def test_a(): pass\ndef test_other(): pass\n", two, partial=True))[0] == 0.5


async def test_who_computes_and_then_sleeps_was_not_kept_waiting_by_us() -> None:
    spin = "import time\nwhile time.process_time() < 1.1: pass\ntime.sleep(1000)\n"
    assert await worth(spin, "assert add(1, 2) == 3") == (0.0, "tests.py: it did not end")


async def test_tests_of_a_module_that_failed_to_set_up_did_not_run() -> None:
    tests = "def setUpModule():\n    assert add(1, 2) == 3\n" + CASE
    assert await worth(RIGHT, tests) == (1.0, "")
    assert await worth(WRONG, tests) == (
        0.0,
        "test_a (solution.T.test_a): it was not run to its end\nAssertionError:  (tests.py:2)",
    )


def test_of_what_kind_tests_are() -> None:
    assert kind_of(FUNCTION, None) == "tests"
    assert kind_of(CHECK, "add") == "check"
    assert kind_of(CHECK + "check(add)", "add") == "itself"
    assert kind_of("x = 1", None) == "itself"
    assert kind_of("try:\n    def test_a(): pass\nfinally:\n    pass", None) == "tests"
    with pytest.raises(Fault, match="no Python"):
        kind_of("\0", None)
