"""Measures engines of the inference service beside each other."""
