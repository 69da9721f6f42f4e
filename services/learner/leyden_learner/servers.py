"""What inference servers have loaded, asked of themselves."""

import asyncio
from collections.abc import Sequence

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from leyden_platform.messaging import Unavailable


class ServersSilent(Unavailable):
    """A server did not say what it has loaded, so it may be anything."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str
    parent: str | None = None
    """Of an adapter, the version that it lies over."""


class _Models(BaseModel):
    model_config = ConfigDict(extra="ignore")

    data: list[_Model]


async def loaded_versions(http: httpx.AsyncClient, servers: Sequence[str]) -> set[str]:
    """Every ``policy@version`` that one of the servers has, and those that its adapters lie over.

    Raises ``ServersSilent`` unless all answer.
    """
    return set().union(*await asyncio.gather(*(_loaded(http, server) for server in servers)))


async def _loaded(http: httpx.AsyncClient, server: str) -> set[str]:
    try:
        response = await http.get(f"{server.rstrip('/')}/v1/models")
        response.raise_for_status()
        models = _Models.model_validate_json(response.content).data
    except (httpx.HTTPError, ValidationError) as error:
        raise ServersSilent(
            f"{server} does not say what it serves ({error or type(error).__name__}); "
            "take it off LEYDEN_LEARNER_SERVERS if it is gone"
        ) from error
    return {name for model in models for name in (model.id, model.parent) if name}
