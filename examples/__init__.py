"""Agents to read, run and train; nothing in the product imports them."""
