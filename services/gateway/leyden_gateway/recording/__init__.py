"""From a captured answer to the facts on the log, acknowledged."""
