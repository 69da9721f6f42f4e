"""The composition root. What an engine needs is imported with it: driving vLLM needs no torch."""

from collections.abc import Sequence

from leyden_inference.settings import InferenceSettings
from leyden_platform.service import Component


async def build(settings: InferenceSettings) -> Sequence[Component]:
    """The service over the engine that the settings choose. Raises ``LoadFailed``."""
    if settings.engine == "vllm":
        from leyden_inference.vllm.build import build_vllm

        return await build_vllm(settings)
    from leyden_inference.build import build_torch

    return await build_torch(settings)
