"""The runner: turns tasks into rollouts, leases each attempt, executes the agent and reports how it ended."""
