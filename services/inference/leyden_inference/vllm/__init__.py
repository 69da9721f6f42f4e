"""Driving vLLM: servers that are started or attached to, with the weights that the registry announces.

vLLM runs in an environment of its own; everything here speaks HTTP with it. A server's weights have no name
in vLLM, so requests are renamed on their way in, answers on their way out; adapters go by ``policy@version``.
"""
