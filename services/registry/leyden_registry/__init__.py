"""The registry: which versions of a policy exist, which of them an alias names, and who moved it."""
