"""The embedded stack: the same services as processes, on a broker and a database from pip wheels."""
