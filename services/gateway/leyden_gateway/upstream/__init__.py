"""The HTTP client towards replicas and external servers."""
