"""Whose call it is: the rollout, attempt, agent role, tenant and session a completion is recorded under."""
