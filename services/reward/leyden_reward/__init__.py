"""The reward service: assembles rollouts from the event log and scores them."""
