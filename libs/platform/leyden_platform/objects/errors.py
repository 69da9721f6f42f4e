"""What can go wrong between here and an object store."""


class StoreFailed(Exception):
    """The object store did not do what it was asked: it is away, refuses, or answered too late. Try again."""

    reason = "failed"
    """Label of the failures' metric."""


class StoreTimedOut(StoreFailed):
    """The object store did not answer in time, or a transfer took longer than it may."""

    reason = "timed_out"


class CacheTooSmall(OSError):
    """An artifact is larger than its cache may be."""
