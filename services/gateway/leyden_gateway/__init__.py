"""The front door for agents: OpenAI-compatible, and on the log before the caller sees the end."""
