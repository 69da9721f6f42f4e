"""Models that the demo can train, as Hugging Face folders on this machine."""
