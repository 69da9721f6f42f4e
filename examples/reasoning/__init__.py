"""An agent that does sums in its head, tasks from reasoning-gym, and its verdict as reward."""
