"""What every service stands on: messaging, database, telemetry, settings, lifecycle."""
