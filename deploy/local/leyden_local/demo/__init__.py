"""``leyden demo``: start the stack, evaluate, train, evaluate again, write a report, stop."""
