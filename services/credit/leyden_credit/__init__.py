"""The credit service: compares the rollouts of a task and says which step earned what."""
