"""A testing kit: builders of messages, with defaults for what a test does not care about."""
