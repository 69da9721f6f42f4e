"""Completions and tokens per attempt, and how long a conversation may be."""

from typing import Any
from uuid import UUID

import pytest

from leyden_gateway.control.budget import CompletionBudget
from leyden_gateway.control.sizes import check_messages
from leyden_gateway.errors import BudgetSpent, TokensSpent, TooManyMessages
from leyden_gateway.exchange.fields import of

A, B, C = ((UUID(int=i), 1) for i in range(3))


def test_the_limit_is_a_limit() -> None:
    budget = CompletionBudget(entries=10)
    budget.take(A, 2)
    budget.take(A, 2)
    with pytest.raises(BudgetSpent, match="2 completions"):
        budget.take(A, 2)
    budget.take(B, 2)


def test_what_infrastructure_failed_is_given_back() -> None:
    budget = CompletionBudget(entries=10)
    budget.take(A, 1)
    budget.give_back(A)
    budget.take(A, 1)
    budget.give_back(B)


def test_what_is_no_completion_costs_none_but_something_must_be_left() -> None:
    budget = CompletionBudget(entries=10)
    for _ in range(3):
        budget.take(A, 2, 10, 0)
    budget.take(A, 2, 10)
    budget.spend(A, 10)
    with pytest.raises(TokensSpent):
        budget.take(A, 2, 10, 0)
    budget.take(B, 1)
    with pytest.raises(BudgetSpent):
        budget.take(B, 1, completions=0)


def test_every_alternative_is_a_completion() -> None:
    budget = CompletionBudget(entries=10)
    budget.take(A, 5)
    budget.widen(A, 5, 3)
    budget.take(A, 5)
    with pytest.raises(BudgetSpent, match="3 completions, and this attempt has 2 of its 5 left"):
        budget.widen(A, 5, 3)
    budget.take(A, 5)
    budget.widen(A, 5, 2)
    with pytest.raises(BudgetSpent, match="has made its 5 completions"):
        budget.take(A, 5)
    budget.give_back(A, 2)
    budget.take(A, 5)
    budget.widen(A, 5, 2)


def test_one_call_cannot_ask_for_more_than_the_limit() -> None:
    budget = CompletionBudget(entries=10)
    budget.take(A, 2)
    with pytest.raises(BudgetSpent, match="50 completions"):
        budget.widen(A, 2, 50)
    budget.take(A, 2)
    budget.take(A, 2)


def test_an_attempt_that_was_forgotten_meanwhile_is_counted_again() -> None:
    budget = CompletionBudget(entries=1)
    budget.take(A, 4)
    budget.take(B, 4)
    budget.widen(A, 4, 4)
    with pytest.raises(BudgetSpent):
        budget.take(A, 4)


def test_tokens_are_counted_when_a_completion_ends() -> None:
    budget = CompletionBudget(entries=10)
    budget.take(A, 10, max_tokens=700)
    budget.take(A, 10, max_tokens=700)
    budget.spend(A, 699)
    budget.take(A, 10, max_tokens=700)
    budget.spend(A, 500)
    with pytest.raises(TokensSpent, match="1199 of the 700 tokens"):
        budget.take(A, 10, max_tokens=700)
    budget.take(A, 10)
    budget.spend(B, 5)


def test_memory_is_bounded_by_forgetting_the_least_recent() -> None:
    budget = CompletionBudget(entries=2)
    budget.take(A, 1)
    budget.take(B, 1)
    budget.take(C, 1)
    budget.take(A, 1)
    with pytest.raises(BudgetSpent):
        budget.take(C, 1)


MESSAGE = {"role": "user", "content": "a, b, c"}


@pytest.mark.parametrize("field", ["messages", "input", "prompt"])
def test_a_long_conversation_is_refused(field: str) -> None:
    check_messages(of({field: [MESSAGE] * 5}), 5)
    with pytest.raises(TooManyMessages, match=f"{field} has 6 items; this gateway takes at most 5"):
        check_messages(of({field: [MESSAGE] * 6}), 5)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"messages": None},
        {"messages": "a, b, c, d, e, f, g, h"},
        {"messages": {"a": [1, 2, 3], "b": [4, 5, 6]}},
        {"prompt": list(range(100))},
        {"input": ["a, b, c, d, e, f, g, h"]},
    ],
)
def test_what_is_no_long_conversation_passes(request_: dict[str, Any]) -> None:
    check_messages(of(request_), 5)


def test_prompts_of_token_ids_count_as_prompts() -> None:
    with pytest.raises(TooManyMessages, match="prompt has 6"):
        check_messages(of({"prompt": [[1, 2]] * 6}), 5)
