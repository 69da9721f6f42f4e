"""The inference service: a small torch engine behind the HTTP interface that vLLM has.

It serves Qwen3 and Llama models of a few million to a few hundred million parameters on a CPU, in fp32, and
follows the registry's announcements. Larger models are vLLM's job; the gateway cannot tell the two apart.
"""
