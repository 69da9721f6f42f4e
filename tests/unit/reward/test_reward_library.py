"""Rewards that need no user code: values worked out by hand, hostile answers, tasks that say too little."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import make_step, make_task, make_trajectory
from leyden_reward.rewards.library import QUICK
from leyden_reward.rewards.library.json_schema import json_schema
from leyden_reward.rewards.library.multiple_choice import letter_in, multiple_choice
from leyden_reward.rewards.library.overlong import overlong
from leyden_reward.rewards.library.regex import regex
from leyden_reward.rewards.library.sql import difference, is_ordered, sql
from leyden_reward.rewards.library.texts import code_in
from leyden_reward.rewards.library.token_f1 import token_f1
from leyden_schemas import RewardSpec, Trajectory

LETTERS = frozenset("ABCD")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
SETUP = """
CREATE TABLE track (id INTEGER, name TEXT, price REAL);
INSERT INTO track VALUES (1, 'a', 0.99), (2, 'b', 1.99), (3, 'b', NULL);
"""


def answered(output: Any, reference: Any, name: str, **params: Any) -> Trajectory:
    """A trajectory that ended with ``output`` where ``reference`` was wanted."""
    task = make_task(reference=reference, reward=RewardSpec(name=name, params=params))
    return make_trajectory(task=task, output=output)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("**C.**", "C"),
        ("The answer is (D).", "D"),
        ("answer: a", "A"),
        ("First I thought the answer is A, but the answer is B", "B"),
        (r"so \boxed{C}", "C"),
        (r"so \boxed{\text{(d)}}", "D"),
        ("Option B is right", "B"),
        ("It must be [A] and not [B]", "B"),
        ("A cat sat on D", "D"),
        ("A cat sat", None),
        ("A is right", "A"),
        ("I don't know", None),
        ("answer: E", None),
        ("", None),
    ],
)
def test_the_letter_that_a_text_chooses(text: str, letter: str | None) -> None:
    assert letter_in(text, LETTERS) == letter


def test_multiple_choice() -> None:
    assert multiple_choice(answered("I pick B", "B", "multiple_choice")) == 1.0
    assert multiple_choice(answered("I pick B", "(a)", "multiple_choice")) == 0.0
    assert multiple_choice(answered(None, "A", "multiple_choice")) == 0.0
    assert multiple_choice(answered("Z", "z", "multiple_choice", choices=["Y", "Z"])) == 1.0
    with pytest.raises(ValueError, match="is none of A, B"):
        multiple_choice(answered("A", "C", "multiple_choice", choices="AB"))


@pytest.mark.parametrize(
    ("output", "reference", "expected"),
    [
        ("The cat sat", "a cat sat!", 1.0),
        ("cat sat on mat", "the cat", 2 * 1 / (4 + 1)),
        ("cat cat", "cat", 2 * 1 / (2 + 1)),
        ("dog", "cat", 0.0),
        ("dog", ["cat", "dog"], 1.0),
        ("", "the", 1.0),
        (None, "cat", 0.0),
    ],
)
def test_token_f1(output: Any, reference: Any, expected: float) -> None:
    assert token_f1(answered(output, reference, "token_f1")) == pytest.approx(expected)


def test_token_f1_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="empty"):
        token_f1(answered("x", [], "token_f1"))


@pytest.mark.parametrize(
    ("output", "params", "expected"),
    [
        ("id 42!", {"pattern": r"\d+"}, 1.0),
        ("id 42!", {"pattern": r"\d+", "full": True}, 0.0),
        ("ID", {"pattern": "id"}, 0.0),
        ("ID", {"pattern": "id", "flags": "i"}, 1.0),
        ("a\nb", {"pattern": "a.b", "flags": "s"}, 1.0),
        (None, {"pattern": "x"}, 0.0),
        ({"a": 1}, {"pattern": '"a": 1'}, 1.0),
    ],
)
def test_regex(output: Any, params: dict[str, Any], expected: float) -> None:
    assert regex(answered(output, None, "regex", **params)) == expected


@pytest.mark.parametrize("pattern", ["(", 5, None])
def test_what_is_no_pattern_is_said(pattern: Any) -> None:
    with pytest.raises(ValueError, match=r"pattern|reference"):
        regex(answered("x", pattern, "regex"))


@pytest.mark.parametrize(
    ("output", "expected", "feedback"),
    [
        ('{"name": "Ada", "age": 36}', 1.0, None),
        ('Here:\n```json\n{"name": "Ada", "age": 36}\n```\nDone.', 1.0, None),
        ({"name": "Ada", "age": 36}, 1.0, None),
        ('{"name": "Ada", "age": -1}', 0.0, "$.age: -1 is less than the minimum of 0"),
        ('{"name": "Ada"}', 0.0, "'age' is a required property"),
        ("Ada, 36", 0.0, "not JSON"),
        ('{"name": "Ada", "age": NaN}', 0.0, "NaN is not JSON"),
        ("[" * 5_000 + "]" * 5_000, 0.0, "nested deeper|not JSON"),
        (None, 0.0, "None is not of type"),
    ],
)
def test_json_schema(output: Any, expected: float, feedback: str | None) -> None:
    (term,) = json_schema(answered(output, None, "json_schema", schema=PERSON))
    assert term.value == expected
    assert (term.feedback is None) == (feedback is None)
    assert feedback is None or any(part in str(term.feedback) for part in feedback.split("|"))


@pytest.mark.parametrize(
    "schema", [{"type": "nothing"}, 5, {"$ref": "https://example.com/schema.json"}, {"$ref": "#/nowhere"}]
)
def test_what_is_no_schema_is_said_and_nothing_is_fetched(schema: Any) -> None:
    with pytest.raises(ValueError, match="json_schema"):
        json_schema(answered("{}", schema, "json_schema"))


@pytest.mark.parametrize(("tokens", "expected"), [(60, 0.0), (75, 0.0), (80, -0.2), (100, -1.0), (500, -1.0)])
def test_overlong(tokens: int, expected: float) -> None:
    task = make_task(reward=RewardSpec(name="overlong", params={"max_tokens": 100}))
    steps = [make_step(sampled=range(tokens // 2)), make_step(sampled=range(tokens - tokens // 2))]
    assert overlong(make_trajectory(task=task, steps=steps)) == pytest.approx(expected)


def asked(query: Any, reference: Any, **params: Any) -> tuple[float, str]:
    """The reward and feedback for a query."""
    given = {"setup": SETUP} if "database" not in params else {}
    (term,) = sql(answered(query, reference, "sql", **given, **params))
    return term.value, term.feedback or ""


def test_queries_with_the_same_rows_are_equal() -> None:
    reference = "SELECT name, count(*) FROM track GROUP BY name"
    assert asked(
        "```sql\nSELECT name AS n, sum(1.0) FROM track GROUP BY 1 ORDER BY 1 DESC\n```", reference
    ) == (1, "")
    assert asked("SELECT name FROM track", reference) == (0.0, "1 columns instead of 2")
    assert asked("SELECT name, 1 FROM track", reference) == (0.0, "3 rows instead of 2")
    assert asked("SELECT name, 1 FROM track LIMIT 2", reference)[1].startswith(
        "a row that is not wanted: ('b', 1.0)"
    )
    assert asked("SELECT 0.1 + 0.2", "SELECT 0.3") == (1.0, "")
    assert asked("SELECT price FROM track WHERE id = 3", "SELECT NULL") == (1.0, "")
    assert asked("SELECT id FROM track", [[3], [1], [2]]) == (1.0, "")
    assert asked("SELECT id FROM track WHERE 0", []) == (1.0, "")


def test_order_counts_where_the_reference_orders() -> None:
    reference = "SELECT id FROM track ORDER BY id"
    assert asked("SELECT id FROM track ORDER BY id DESC", reference) == (
        0.0,
        "the right rows in another order",
    )
    assert asked("SELECT id FROM track ORDER BY id DESC", reference, ordered=False) == (1.0, "")
    assert asked("SELECT id FROM track ORDER BY id DESC", [[1], [2], [3]], ordered=True)[0] == 0.0


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER  BY a", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT 'order by' FROM t -- order by a", False),
        ("SELECT row_number() OVER (ORDER BY (a)) FROM t", False),
        ([[1]], False),
    ],
)
def test_when_a_reference_orders(query: object, ordered: bool) -> None:
    assert is_ordered(query) is ordered


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("DELETE FROM track", "not authorized"),
        ("DROP TABLE track", "not authorized"),
        ("ATTACH '/etc/passwd' AS p", "not authorized"),
        ("PRAGMA query_only = 0", "not authorized"),
        ("SELECT load_extension('x')", "not authorized|no such function"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELEC 1", "syntax error"),
        ("", "no query"),
        (None, "no query"),
        ("SELECT hex(zeroblob(100000000))", "too big"),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
            "computed over",
        ),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
            "rows|computed over",
        ),
    ],
)
def test_queries_that_may_not_or_do_not_end_are_worth_nothing(query: Any, problem: str) -> None:
    worth, feedback = asked(query, "SELECT count(*) FROM track", cpu_s=0.3)
    assert worth == 0.0
    assert any(part in feedback for part in problem.split("|")), feedback


def test_a_database_file_is_read_and_never_written(tmp_path: Path) -> None:
    file = tmp_path / "music #1.db"
    with sqlite3.connect(file) as database:
        database.executescript(SETUP)
    before = file.read_bytes()
    assert asked("SELECT count(*) FROM track", "SELECT 3", database=str(file)) == (1.0, "")
    assert asked("INSERT INTO track VALUES (4, 'c', 1)", "SELECT 3", database=str(file))[0] == 0.0
    assert file.read_bytes() == before
    with pytest.raises(ValueError, match="no database file"):
        asked("SELECT 1", "SELECT 1", database=str(tmp_path / "other.db"))


@pytest.mark.parametrize(
    ("reference", "setup"), [("SELEC", SETUP), ({}, SETUP), ("SELECT 1", "CREATE"), (None, SETUP)]
)
def test_a_reference_of_no_use_is_the_tasks_fault(reference: Any, setup: str) -> None:
    with pytest.raises(ValueError, match="sql"):
        sql(answered("SELECT 1", reference, "sql", setup=setup))


SqlRows = list[tuple[Any, ...]]
rows = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", None])), max_size=6)


@given(rows, st.randoms(use_true_random=False))
def test_rows_are_a_multiset(wanted: SqlRows, chance: Any) -> None:
    shuffled = chance.sample(wanted, len(wanted))
    assert difference(shuffled, wanted, ordered=False) is None
    assert (difference(shuffled, wanted, ordered=True) is None) == (shuffled == wanted)


@given(rows, rows)
def test_results_are_equal_both_ways_or_not_at_all(
    one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]
) -> None:
    same = difference(one, other, ordered=False) is None
    assert (
        same
        == (difference(other, one, ordered=False) is None)
        == (sorted(map(str, one)) == sorted(map(str, other)))
    )


def test_the_last_fenced_block_is_the_code() -> None:
    assert code_in("a\n```py\n1\n```\nb\n```\n2\n```") == "2\n"
    assert code_in("no fence") == "no fence"
    assert code_in("```py\nnever closed") == "```py\nnever closed"


HOSTILE: list[Any] = [
    "answer" + " " * 200_000, "A " * 100_000, "1," * 100_000, "[" * 100_000,
    "```\n" * 50_000, "\\boxed{" * 20_000,
    "1e999", "٣", "\ud800", {"a": [None, {"b": float("nan")}]}, [], 10**300, True,
]  # fmt: skip


@pytest.mark.parametrize("function", QUICK.values(), ids=QUICK)
def test_no_answer_makes_a_quick_reward_raise_or_take_long(function: Callable[[Trajectory], float]) -> None:
    params = {"max_tokens": 10} if function is overlong else {}
    reference = "A" if function is multiple_choice else "1"
    for output in HOSTILE:
        began = time.process_time()
        assert 0.0 <= function(answered(output, reference, function.__name__, **params)) <= 1.0
        assert time.process_time() - began < 5.0


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_answer_is_worth_something_between_0_and_1(output: Any) -> None:
    for name, function in QUICK.items():
        params = {"max_tokens": 10} if name == "overlong" else {}
        reference = 3 if name == "numeric" else "B"
        assert 0.0 <= function(answered(output, reference, name, **params)) <= 1.0
    (term,) = json_schema(answered(output, None, "json_schema", schema=PERSON))
    assert term.value in (0.0, 1.0)
    assert regex(answered(output, "b+", "regex")) in (0.0, 1.0)
