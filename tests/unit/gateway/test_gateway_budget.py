"""Completions per attempt."""

from uuid import UUID

import pytest

from leyden_gateway.control.budget import CompletionBudget
from leyden_gateway.errors import BudgetSpent

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


def test_memory_is_bounded_by_forgetting_the_least_recent() -> None:
    budget = CompletionBudget(entries=2)
    budget.take(A, 1)
    budget.take(B, 1)
    budget.take(C, 1)
    budget.take(A, 1)
    with pytest.raises(BudgetSpent):
        budget.take(C, 1)
