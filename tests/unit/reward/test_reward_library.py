"""Rewards that need no user code: values worked out by hand, hostile answers, tasks that say too little."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import make_step, make_task, make_trajectory
from leyden_reward.rewards.library import QUICK
from leyden_reward.rewards.library.json_schema import json_schema
from leyden_reward.rewards.library.multiple_choice import choice_in, multiple_choice
from leyden_reward.rewards.library.overlong import overlong
from leyden_reward.rewards.library.queries import difference
from leyden_reward.rewards.library.regex import regex
from leyden_reward.rewards.library.sql import is_ordered, sql
from leyden_reward.rewards.library.texts import TaskFault, code_in, written
from leyden_reward.rewards.library.token_f1 import token_f1
from leyden_schemas import RewardSpec, Trajectory

LETTERS = "ABCD"
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
        ("I will answer a question about physics. B", "B"),
        ("The best choice a doctor can make is D", "D"),
        ("Answer: a triangle has three sides, so C", "C"),
        ("Option A: yes. Option B: no. Option C: no. I pick A", "A"),
        ("b) Paris", "B"),
        ("b. Paris", "B"),
        ("(b) Paris", "B"),
        ("**B.** Paris", "B"),
        ("B. Vitamin C", "B"),
        ("B: Vitamin C", "B"),
        ("b) Vitamin C. It is in A too", "B"),
        ("A. no. B. no. So C", "C"),
        ("A) no\nB) no\nC) yes", "C"),
        ("A) 3\nB) 4\n\nThe answer is A", "A"),
        ("<answer>b</answer>", "B"),
        ("I thought of C.\n<answer>\nb) Paris\n</answer>\nNot D", "B"),
        ("It is A\n#### B", "B"),
        (r"\boxed{\text{d}} and not A", "D"),
        (r"\boxed{\textbf{(B)}\ 12}", "B"),
        ("**Answer:** B", "B"),
        ("**Answer: B**", "B"),
        ("Answer: **B**", "B"),
        ("The correct answer is: b", "B"),
        ("The correct option is b.", "B"),
        ("The correct answer is option C", "C"),
        ("The answer is $B$.", "B"),
        ("the answer would be B, not A", "B"),
        ("I'd go with option b", "B"),
        ("I choose a", "A"),
        ("I choose a car over A", "A"),
        ("option b", "B"),
        ("Final answer (c)", "C"),
        ("Answer B", "B"),
        ("B is correct because A is not", "B"),
        ("It's Bob's cat", None),
        ("_C_", "C"),
        ("B\n\nExplanation: A is wrong, as D is", "B"),
        ("B - London, because option A is wrong", "B"),
        ("B, because A is wrong", "B"),
        ("A - no\nB - no\nC - yes", "C"),
        ("A is tempting, and I'm sure of it", "A"),
        ("The answer is 'B'.", "B"),
        ("The answer's B.", "B"),
        ("It goes from A to D.\n\nC", "C"),
        ("I don't know", None),
        ("answer: E", None),
        ("", None),
    ],
)
def test_the_letter_that_a_text_chooses(text: str, letter: str | None) -> None:
    assert choice_in(text, LETTERS) == letter


def test_multiple_choice() -> None:
    assert multiple_choice(answered("I pick B", "B", "multiple_choice")) == 1.0
    assert multiple_choice(answered("I pick B", "(a)", "multiple_choice")) == 0.0
    assert multiple_choice(answered(None, "A", "multiple_choice")) == 0.0
    assert multiple_choice(answered("Z", "z", "multiple_choice", choices=["Y", "Z"])) == 1.0
    assert multiple_choice(answered("The answer is 2", "2", "multiple_choice", choices="1234")) == 1.0
    assert multiple_choice(answered(2, 2, "multiple_choice", choices="1234")) == 1.0
    assert multiple_choice(answered("yes.", "Yes", "multiple_choice", choices=["Yes", "No"])) == 1.0
    with pytest.raises(TaskFault, match="is none of A, B"):
        multiple_choice(answered("A", "C", "multiple_choice", choices="AB"))


@pytest.mark.parametrize(
    ("text", "choices", "choice"),
    [
        ("2", "1234", "2"),
        ("2) Paris", "1234", "2"),
        ("I counted 12 and 2.5, so 3", "1234", "3"),
        ("Answer: 2. It has 4 sides", "1234", "2"),
        ("Yes, because no other fits", ["Yes", "No"], "YES"),
        ("The answer is no.", ["Yes", "No"], "NO"),
        ("I do not know", ["Yes", "No"], None),
        ("It is **false**", ["true", "false"], "FALSE"),
        ("The answer is not  given.", ["true", "false", "not given"], "NOT GIVEN"),
        ("untrue", ["true", "false"], None),
        ("entailment", ["entailment", "neutral", "contradiction"], "ENTAILMENT"),
        ("I like A", ["B", "none"], None),
        ("c++ it is", ["c", "c++"], "C++"),
    ],
)
def test_choices_are_letters_digits_or_words(text: str, choices: str | list[str], choice: str | None) -> None:
    assert choice_in(text, choices) == choice


@pytest.mark.parametrize("choices", ["A,B", "AA", "Aa", "", [], [" "], ["yes", "Yes "], "AÉ"])
def test_choices_that_are_none_are_refused(choices: Any) -> None:
    with pytest.raises(ValueError, match="choices"):
        multiple_choice(answered("A", "A", "multiple_choice", choices=choices))


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
    with pytest.raises(TaskFault, match="empty"):
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
    with pytest.raises(TaskFault, match=r"pattern|reference"):
        regex(answered("x", pattern, "regex"))


@pytest.mark.parametrize(
    ("output", "expected", "feedback"),
    [
        ('{"name": "Ada", "age": 36}', 1.0, None),
        ('Here:\n```json\n{"name": "Ada", "age": 36}\n```\nDone.', 1.0, None),
        ({"name": "Ada", "age": 36}, 1.0, None),
        ('{"name": "Ada", "age": -1}', 0.0, "$.age: -1 is less than the minimum of 0"),
        ('{"name": "Ada"}', 0.0, "'age' is a required property"),
        ('```json title=x\n{"name": "Ada", "age": 36}\n```', 1.0, None),
        ('```json {"name": "Ada", "age": 36}```', 1.0, None),
        ('```json\r\n{"name": "Ada", "age": 36}\r\n```\r\n', 1.0, None),
        ('{"name": "Ada", "age": 1e400}', 0.0, "not of type"),
        ({"name": "Ada", "age": -(10**5000)}, 0.0, "too large"),
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
    ("output", "factor", "expected"),
    [
        ("19.99", 0.01, 1.0),
        ("0.3", 0.1, 1.0),
        ("19.995", 0.01, 0.0),
        ("7", 3, 0.0),
        ("1e300", 7, 0.0),
        ("true", 2, 1.0),
    ],
)
def test_multiples_are_exact(output: str, factor: float, expected: float) -> None:
    (term,) = json_schema(answered(output, {"multipleOf": factor}, "json_schema"))
    assert term.value == expected


@pytest.mark.parametrize(("output", "expected"), [('{"type": "object"}', 1.0), ('{"type": 5}', 0.0)])
def test_a_schema_may_ask_for_a_schema(output: str, expected: float) -> None:
    schema = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    (term,) = json_schema(answered(output, schema, "json_schema"))
    assert term.value == expected


@pytest.mark.parametrize("output", ['{"x": 1e400}', '{"x": -1e400}', {"x": 10**400}, {"x": 10**5000}])
def test_a_number_too_large_to_be_checked_is_the_agents_failure(output: Any) -> None:
    schema = {"properties": {"x": {"multipleOf": 0.5, "maximum": 10**9}}}
    (term,) = json_schema(answered(output, schema, "json_schema"))
    assert term.value == 0.0
    assert term.feedback


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "("},
        {"type": "nothing"},
        5,
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#/nowhere"},
    ],
)
def test_what_is_no_schema_is_said_and_nothing_is_fetched(schema: Any) -> None:
    with pytest.raises(TaskFault, match="json_schema"):
        json_schema(answered('"{}"' if "pattern" in str(schema) else "{}", schema, "json_schema"))


@pytest.mark.parametrize(("tokens", "expected"), [(60, 0.0), (75, 0.0), (80, -0.2), (100, -1.0), (500, -1.0)])
def test_overlong(tokens: int, expected: float) -> None:
    task = make_task(reward=RewardSpec(name="overlong", params={"max_tokens": 100}))
    steps = [make_step(sampled=range(tokens // 2)), make_step(sampled=range(tokens - tokens // 2))]
    assert overlong(make_trajectory(task=task, steps=steps)) == pytest.approx(expected)


def asked(query: Any, reference: Any, **params: Any) -> tuple[float, str]:
    """The reward and feedback for a query."""
    given = {"setup": SETUP} if params.keys().isdisjoint({"database", "setup"}) else {}
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
        "a row that is not wanted: ('b', 1)"
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
        ("SELECT instr(zeroblob(5000000), zeroblob(2500000) || x'01')", "computed over"),
        ("VACUUM INTO 'copy.db'", "authorization denied"),
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
    with pytest.raises(TaskFault, match="no database file"):
        asked("SELECT 1", "SELECT 1", database=str(tmp_path / "other.db"))


@pytest.mark.parametrize(
    "script",
    [
        "ATTACH '{file}' AS p; CREATE TABLE p.t(a);",
        "VACUUM INTO '{file}'",
        "CREATE TABLE t(a); VACUUM main INTO '{file}'",
        "PRAGMA temp_store_directory = '{file}'",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('{file}')",
        "SELECT writefile('{file}', 'x')",
    ],
)
def test_setting_up_touches_no_file(script: str, tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with pytest.raises(TaskFault, match=r"setup: (not authorized|authorization denied|no such function)"):
        asked("SELECT 1", "SELECT 1", setup=script.format(file=file))
    assert not file.exists()


def test_a_file_that_the_setup_attaches_is_not_read(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "secret.db") as database:
        database.executescript("CREATE TABLE s(k); INSERT INTO s VALUES ('secret');")
    with pytest.raises(TaskFault, match="not authorized"):
        asked("SELECT k FROM p.s", "SELECT 1", setup=f"ATTACH '{tmp_path}/secret.db' AS p")


def test_a_dump_with_its_usual_settings_is_set_up() -> None:
    dump = f"PRAGMA foreign_keys=OFF; BEGIN TRANSACTION; {SETUP} COMMIT;"
    assert asked("SELECT count(*) FROM track", "SELECT 3", setup=dump) == (1.0, "")


VIRTUAL = (
    "CREATE VIRTUAL TABLE note USING fts5(text); INSERT INTO note VALUES ('hello you'), ('bye');"
    "CREATE VIRTUAL TABLE place USING rtree(id, low, high); INSERT INTO place VALUES (1, 0, 1), (2, 5, 6);"
)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT value FROM json_each('[1, 2]')", [[1], [2]]),
        ("SELECT count(*) FROM json_tree('[1, [2]]')", [[4]]),
        ("SELECT text FROM note WHERE note MATCH 'hello'", [["hello you"]]),
        ("SELECT id FROM place WHERE low >= 5", [[2]]),
    ],
)
def test_selecting_from_a_function_or_an_index_is_selecting(
    query: str, rows: list[list[Any]], tmp_path: Path
) -> None:
    file = tmp_path / "virtual.db"
    with closing(sqlite3.connect(file)) as database:
        database.executescript(VIRTUAL)
    for source in ({"setup": VIRTUAL}, {"database": str(file)}):
        assert asked(query, rows, **source) == (1.0, "")
        assert asked("SELECT 7", query, **source)[0] == 0.0
        assert asked("INSERT INTO note VALUES ('x')", rows, **source) == (0.0, "not authorized")
        assert asked("SELECT * FROM pragma_table_info('note')", rows, **source) == (0.0, "not authorized")


def test_a_setup_or_a_reference_without_end_is_the_tasks_fault() -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    for setup, reference in ((f"CREATE TABLE t AS {endless}", "SELECT 1"), (SETUP, endless)):
        began = time.monotonic()
        with pytest.raises(TaskFault, match=r"it computed over 0\.2 s"):
            asked("SELECT 1", reference, setup=setup, cpu_s=0.2)
        assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("given_value", "wanted", "equal"),
    [
        (1700000000999, 1700000000123, False),
        (1700000000999, 1700000000999, True),
        (1700000000999.0, 1700000000999, True),
        (1700000000999.0, 1700000000123.0, False),
        (2, 2.0, True),
        (0.1 + 0.2, 0.3, True),
        (3.0000000000001, 3, True),
        (0.12345678, 0.12345679, False),
        (1e20, 100000000000000016384.0, True),
        (2**62, 2**62 + 1, False),
        (12345678901.000002, 12345678901, True),
        (1234567891.0000002, 1234567891.0, True),
        (1234567891.0000002, 1234567892, False),
        ("2", 2, False),
        (None, None, True),
        (None, 0, False),
        (float("inf"), float("inf"), True),
        (b"a", b"a", True),
    ],
)
def test_whole_numbers_are_compared_exactly(given_value: Any, wanted: Any, equal: bool) -> None:
    assert (difference([(given_value,)], [(wanted,)], ordered=False) is None) is equal


@pytest.mark.parametrize(
    ("reference", "setup"),
    [([[{}]], SETUP), ([1], SETUP), ("SELEC", SETUP), ({}, SETUP), ("SELECT 1", "CREATE"), (None, SETUP)],
)
def test_a_reference_of_no_use_is_the_tasks_fault(reference: Any, setup: str) -> None:
    with pytest.raises(TaskFault, match="sql"):
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


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a\n```\n1\n```\nb\n```\n2\n```", "2\n"),
        ("a\n```py\n1\n```\nb\n```\n2\n```", "1\n"),
        ("```py\n1\n```\n```py\n2\n```\nand it prints\n```text\n3\n```", "2\n"),
        ("```PY\n1\n```\n```\n2\n```", "1\n"),
        ("no fence", "no fence"),
        ("```py\nnever closed", "never closed"),
        ("```py\r\na = 1\r\nb = 2\r\n```\r\n", "a = 1\nb = 2\n"),
        ("```py title=x {1,2}\n1\n```", "1\n"),
        ("```c++\n1\n```", "1\n"),
        ("```py 1 + 1```", "1 + 1"),
        ("so ```1 + 1``` it is", "1 + 1"),
        ("```py\n1```", "1"),
        ("```py\ns = '```' + x\n```", "s = '```' + x\n"),
        ("````py\n```\n1\n```\n````", "```\n1\n```\n"),
        ("1.\n   ```py\n   1\n   ```\n", "   1\n"),
        ("", ""),
    ],
)
def test_the_last_fenced_block_is_the_code(text: str, code: str) -> None:
    assert code_in(text, "py") == code


def test_any_whole_number_is_written() -> None:
    assert written(10**5000) == written(10**5000) != written(10**5000 + 1)
    assert written({"a": [-(10**5000)]}) == '{"a": ["' + hex(-(10**5000)) + '"]}'


HOSTILE: list[Any] = [
    "answer" + " " * 200_000, "A " * 100_000, "1," * 100_000, "[" * 100_000,
    "```\n" * 50_000, "`" * 100_000, "``` " * 30_000, "```\n" + " " * 100_000, 10**5000, {"a": -(10**5000)},
    "1" * 100_000, "1/" * 50_000, "-" * 100_000, "1 " * 50_000, "1^" * 50_000, "\\frac{" * 20_000,
    "A is " * 20_000, "<answer>" * 20_000, "####" * 20_000, "{" * 100_000, "\\boxed{" + "{" * 100_000,
    "1,000" * 20_000,    "\\boxed{" * 20_000,
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
