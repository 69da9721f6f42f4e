"""Code that agents wrote, run where it can do little harm. docs/reward.md says what it can reach."""
