"""Built-in rewards, and what counts as a reward at all."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import make_task, make_trajectory
from leyden_reward.rewards.library.exact_match import exact_match
from leyden_reward.rewards.library.numeric import number_in, numeric
from leyden_reward.rewards.library.texts import TaskFault
from leyden_reward.rewards.verdict import MAX_FEEDBACK, Graded, Reason, Refused, verdict
from leyden_schemas import RewardSpec, RewardTerm, Trajectory, encode


def answered(output: Any, reference: Any, name: str = "exact_match", **params: Any) -> Trajectory:
    """A trajectory that ended with ``output`` where ``reference`` was wanted."""
    task = make_task(reference=reference, reward=RewardSpec(name=name, params=params))
    return make_trajectory(task=task, output=output)


@pytest.mark.parametrize(
    ("output", "reference", "expected"),
    [
        ("4", "4", 1.0),
        (" 4\n", "4", 1.0),
        (4, "4", 1.0),
        ("Four", "four", 0.0),
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, 1.0),
        (None, "4", 0.0),
        (None, "null", 0.0),
        ("", "4", 0.0),
    ],
)
def test_exact_match(output: Any, reference: Any, expected: float) -> None:
    assert exact_match(answered(output, reference)) == expected


def test_exact_match_can_ignore_case() -> None:
    assert exact_match(answered("Four", "four", ignore_case=True)) == 1.0


@pytest.mark.parametrize(
    ("output", "reference", "params", "expected"),
    [
        ("The answer is 1,234.5.", 1234.5, {}, 1.0),
        ("12 - 5 = 7", "7", {}, 1.0),
        ("7 of 12", "7", {}, 0.0),
        (7.0000001, 7, {}, 1.0),
        (7.01, 7, {}, 0.0),
        (7.01, 7, {"tolerance": 0.02}, 1.0),
        (101, 100, {"relative": 0.01}, 1.0),
        ("-3", -3, {}, 1.0),
        ("1e3", 1000, {}, 1.0),
        ("no idea", 7, {}, 0.0),
        (None, 7, {}, 0.0),
        (True, 1, {}, 0.0),
        ("9" * 400, 7, {}, 0.0),
        (math.inf, 7, {}, 0.0),
        ("10.3", 10, {"tolerance": 0.3}, 1.0),
        ("110", 100, {"relative": 0.1}, 1.0),
        ("12345678901234567891", "12345678901234567890", {}, 0.0),
    ],
)
def test_numeric(output: Any, reference: Any, params: dict[str, float], expected: float) -> None:
    assert numeric(answered(output, reference, "numeric", **params)) == expected


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        ("1/2", ["0.5", "1/2", "2/4", "50%", r"\frac{1}{2}", r"\frac12"], ["2", "3/2", "1"]),
        (r"\frac{3}{4}", ["0.75", "3/4", "3 / 4", "75 %", r"$\dfrac{3}{4}$"], ["4", "3", r"\frac{4}{3}"]),
        (r"-\frac{3}{4}", ["-0.75", r"-\frac{3}{4}", r"\frac{-3}{4}", "−3/4"], ["0.75"]),
        ("-5", ["−5", "-5", "-$5", "$-5", "x = -5", "(-5)", "2 - 7 = -5"], ["5", "0-5"]),
        (
            "5",
            ["5", "5.", "$5$", r"\(5\)", "10 / 2 = 5", "5 cm^2", r"5 \text{ m}^{2}", "5 apples"],
            ["−5", "-5"],
        ),
        ("4", ["3,4", "2 or 4", "**4**"], ["34", r"\frac{\pi}{4}", r"\sqrt{4}", "1/4"]),
        ("10", ["5-10", "5–10", "5 - 10", "x-10"], ["-10", "5-1"]),
        ("19", ["COVID-19"], []),
        (
            "1000",
            ["1,000", "1 000", "1\u202f000", "10^3", "10^{3}", "10**3", "1e3", "1{,}000", "1,000.0"],
            ["10", "3"],
        ),
        ("0.5", ["50%", r"50\%", "50 percent", ".5", "1/2"], ["50", "5%"]),
        ("50", ["50%", "50", "$50.00"], ["0.5", "5%"]),
        ("50%", ["50%", "50", "0.5"], ["0.5%", "5000%"]),
        ("1.5", ["1 1/2", r"1\frac{1}{2}", "3/2"], ["1/2", "1"]),
        ("0.0015", ["1.5e-3", "1.5 × 10^-3", r"1.5 \times 10^{-3}", "1.5*10^-3", "1.5 x 10^-3"], ["1.5"]),
        ("1234567", ["1,234,567", "1 234 567"], ["1,2345,67"]),
        (
            "72",
            [r"\boxed{72} in 3 steps", "<answer>72</answer> (of 100)", "it is 70\n#### 72"],
            ["#### 72\nor 7"],
        ),
        ("48/2 = <<48/2=24>>24 clips.\n#### 1,072", ["1072"], ["24"]),
        (r"so \boxed{12}", ["12"], ["2"]),
        (0, ["0", "-0", "0.0"], ["1/0", "", "no"]),
        (0.1, ["0.1", "10%", "1/10"], ["0.11"]),
    ],
)
def test_how_numbers_are_written(reference: Any, right: list[str], wrong: list[str]) -> None:
    for output in right:
        assert numeric(answered(output, reference, "numeric")) == 1.0, output
    for output in wrong:
        assert numeric(answered(output, reference, "numeric")) == 0.0, output


@pytest.mark.parametrize(
    "reference",
    [
        "seven",
        [],
        None,
        True,
        "",
        "7 apples",
        "7, 8",
        "5-10",
        "x = 7",
        "1/0",
        r"2\pi",
        r"\sqrt{2}",
        "12/5/2024",
        math.inf,
    ],
)
def test_a_reference_is_one_number_and_nothing_else(reference: Any) -> None:
    with pytest.raises(TaskFault, match=r"reference"):
        numeric(answered("7", reference, "numeric"))


def test_whole_numbers_of_any_size_are_compared() -> None:
    assert numeric(answered(10**5000, 7, "numeric")) == 0.0
    assert numeric(answered(10**5000, 10**5000, "numeric")) == 1.0
    assert numeric(answered(10**5000 + 1, 10**5000, "numeric")) == 0.0
    assert exact_match(answered(10**5000, 10**5000)) == 1.0
    assert exact_match(answered(10**5000, 10**5000 + 1)) == 0.0


@given(st.text() | st.integers() | st.floats() | st.lists(st.integers()) | st.none())
def test_a_number_in_anything_is_finite_or_absent(value: Any) -> None:
    found = number_in(value)
    assert found is None or abs(found.value) >= 0


@given(st.fractions(), st.sampled_from(["{} is it", "so ${}$.", r"\boxed{{{}}} or 3"]))
def test_a_ratio_is_read_as_it_is_written(ratio: Fraction, text: str) -> None:
    assert numeric(answered(text.format(ratio), str(ratio), "numeric", tolerance=0)) == 1.0
    assert numeric(answered(text.format(ratio + 1), str(ratio), "numeric", tolerance=0)) == 0.0


def judged(value: object) -> Graded | Refused:
    """The verdict on a return value."""
    return verdict(value, by="f", max_reward=10.0)


def test_a_number_is_one_term() -> None:
    assert judged(0.5) == Graded((RewardTerm(name="reward", value=0.5),), "f")
    assert judged(True) == Graded((RewardTerm(name="reward", value=1.0),), "f")
    assert judged(Fraction(1, 4)) == Graded((RewardTerm(name="reward", value=0.25),), "f")


class Scalar:
    """What a reward computed with arrays is: an array, a tensor or a truth value of no dimensions."""

    shape = ()

    def __init__(self, value: object) -> None:
        self._value = value

    def item(self) -> object:
        """The number in it."""
        return self._value


@pytest.mark.parametrize(
    ("value", "expected"),
    [(Scalar(True), 1.0), (Scalar(0.5), 0.5), (Decimal("0.25"), 0.25), ({"a": Scalar(2)}, 2.0)],
)
def test_scalars_of_other_libraries_are_numbers(value: object, expected: float) -> None:
    graded = judged(value)
    assert isinstance(graded, Graded)
    assert [term.value for term in graded.terms] == [expected]
    assert type(graded.terms[0].value) is float


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Scalar(None), Reason.WRONG_TYPE),
        (Scalar(math.nan), Reason.NOT_FINITE),
        ([10**5000], Reason.WRONG_TYPE),
    ],
)
def test_other_scalars_are_none(value: object, reason: Reason) -> None:
    refused = judged(value)
    assert isinstance(refused, Refused)
    assert refused.reason is reason


@pytest.mark.parametrize(
    "value", [{"a\ud800": 1.0}, RewardTerm(name="a\ud800", value=1.0, feedback="it said \udfff")]
)
def test_what_no_message_can_hold_is_replaced(value: object) -> None:
    graded = judged(value)
    assert isinstance(graded, Graded)
    assert graded.terms[0].name == "a?"
    assert graded.terms[0].feedback in (None, "it said ?")
    assert encode(make_trajectory(final=list(graded.terms)))


def test_named_numbers_are_terms() -> None:
    graded = judged({"right": 1, "short": 0.25})
    assert isinstance(graded, Graded)
    assert [(term.name, term.value) for term in graded.terms] == [("right", 1.0), ("short", 0.25)]


def test_terms_keep_their_weight_and_feedback_within_bounds() -> None:
    graded = judged([RewardTerm(name="judge", value=1.0, weight=0.5, feedback="x" * 10_000)])
    assert isinstance(graded, Graded)
    assert graded.terms[0].weighted == 0.5
    assert graded.terms[0].feedback == "x" * MAX_FEEDBACK


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, Reason.NOT_FINITE),
        (-math.inf, Reason.NOT_FINITE),
        (10**400, Reason.NOT_FINITE),
        ({"a": 1.0, "b": math.nan}, Reason.NOT_FINITE),
        ([RewardTerm.model_construct(name="a", value=math.inf)], Reason.NOT_FINITE),
        (10.5, Reason.OUT_OF_RANGE),
        ({"a": 6.0, "b": 6.0}, Reason.OUT_OF_RANGE),
        ("1.0", Reason.WRONG_TYPE),
        (None, Reason.WRONG_TYPE),
        ({}, Reason.WRONG_TYPE),
        ([], Reason.WRONG_TYPE),
        ([1.0], Reason.WRONG_TYPE),
        ({"a": "1"}, Reason.WRONG_TYPE),
        ({1: 1.0}, Reason.WRONG_TYPE),
        ({str(i): 0.0 for i in range(33)}, Reason.WRONG_TYPE),
        (1j, Reason.WRONG_TYPE),
    ],
)
def test_everything_else_is_refused_with_its_reason(value: object, reason: Reason) -> None:
    refused = judged(value)
    assert isinstance(refused, Refused)
    assert refused.reason is reason
    assert "f returned" in refused.text
