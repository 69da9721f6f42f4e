"""Feedback on production traffic: thumbs, scores, corrections, and the end of a session, onto the log."""
