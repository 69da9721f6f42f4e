"""From a policy reference to a version, to a replica that serves it, and the tries of one call."""
