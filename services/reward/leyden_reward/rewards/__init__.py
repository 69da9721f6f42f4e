"""Final rewards: built-in functions, the user's by name, and the isolated workers that run those."""
