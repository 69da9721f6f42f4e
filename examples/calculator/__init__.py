"""A tool-using agent, its tasks, its reward and the small seed model that learns to be it."""
