"""Reward and credit over a stretch of the log again, into a stream of its own, without inference."""
