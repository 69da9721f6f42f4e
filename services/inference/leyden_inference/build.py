"""The parts of a service over the built-in engine, put together."""

import asyncio
import sys
from collections.abc import Sequence

from leyden_inference.api import Api
from leyden_inference.batch import BatchLimits
from leyden_inference.engine import Engine
from leyden_inference.fetching import make_fetcher
from leyden_inference.follower import Follower
from leyden_inference.keeping import ServingKeeper
from leyden_inference.loading import PRECISIONS, Loader
from leyden_inference.serving import Serving
from leyden_inference.settings import InferenceSettings
from leyden_platform.http import HttpServer
from leyden_platform.service import Component

_SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter from the engine's thread, which asks for it often."""


async def build_torch(settings: InferenceSettings) -> Sequence[Component]:
    """Load the folders that the settings name; raises ``LoadFailed`` when one cannot be served."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    limits = BatchLimits(settings.max_batch, settings.prefill_tokens, settings.prefix_cache_tokens)
    engine = Engine(limits, max_queue=settings.max_queue, threads=settings.torch_threads)
    serving, loader = Serving(engine), Loader(settings.context, PRECISIONS[settings.precision])
    for folder in settings.models:
        serving.add(folder.name, await asyncio.to_thread(loader.load_folder, folder.path))
    api = Api(serving, max_body_bytes=settings.max_body_bytes)
    http = HttpServer(
        "api", api.app(), settings.host, settings.port, drain_timeout_s=settings.drain_timeout_s
    )
    http.bind()
    following: list[Component] = (
        [Follower(settings, ServingKeeper(settings, serving, loader, make_fetcher(settings)))]
        if settings.follow
        else []
    )
    return [engine, *following, http]
