"""Rollouts whose reward depends on the others of their group, brought together by a topic keyed by group."""
