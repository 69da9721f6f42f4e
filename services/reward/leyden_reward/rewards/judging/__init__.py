"""Rewards by a language model: one answer against a rubric, or the rollouts of a group against each other."""
