"""One call from its request to the last byte of its answer."""
