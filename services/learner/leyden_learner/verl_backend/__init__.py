"""The second backend: verl's FSDP engine and losses under the same service.

``factory`` and ``refusals`` are free of torch and verl. docs/learner.md says when to choose it.
"""
