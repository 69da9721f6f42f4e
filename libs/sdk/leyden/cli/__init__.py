"""The ``leyden`` command."""
