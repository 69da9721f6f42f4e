"""What a caller may do: budgets, rates, and the operator's routes on a port of their own."""
