"""One server of vLLM over HTTP: its health, its weights, its adapters, and what it answers to a probe."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from leyden_inference.errors import InferenceError

_CONTROL_TIMEOUT_S = 120.0
"""Generous: the first computation of a server on a busy machine takes its time."""
_HEALTH_TIMEOUT_S = 5.0
_RELOAD_ALL = "leyden_reload"
"""The method of ``inside/leyden_vllm.py``; a server that somebody else started may lack it."""


class ServerFailed(InferenceError):
    """A server of vLLM did not do what it was asked to; the text says what and what it answered."""


class VllmClient:
    """The control side of one server. ``url`` may change when its server is started anew."""

    def __init__(self, session: aiohttp.ClientSession, url: str = "") -> None:
        self.session, self.url = session, url

    async def healthy(self) -> bool:
        """Whether it answers and its engine runs."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S)
            async with self.session.get(f"{self.url}/health", timeout=timeout) as response:
                return response.status == 200
        return False

    async def base_model(self) -> tuple[str, int]:
        """The name that vLLM knows its own weights by, and the longest context. Raises ``ServerFailed``."""
        answer = await self._call("GET", "/v1/models")
        models = [model for model in answer.get("data", ()) if not model.get("parent")]
        if not models:
            raise ServerFailed(f"{self.url}/v1/models lists no model")
        return str(models[0]["id"]), int(models[0].get("max_model_len") or 0)

    async def pause(self) -> None:
        """Stop computing; requests are kept where they are. Raises ``ServerFailed``."""
        await self._call("POST", "/pause", query={"mode": "keep"})

    async def resume(self) -> None:
        """Compute again. Raises ``ServerFailed``."""
        await self._call("POST", "/resume")

    async def reload(self, folder: Path, timeout_s: float) -> None:
        """Put a folder's weights in place of the present ones, and forget what those computed.

        Running requests are computed again by the new weights from their tokens. Raises ``ServerFailed``.
        """
        try:
            await self._on_workers(_RELOAD_ALL, folder, timeout_s)
        except ServerFailed as error:
            if f"no attribute '{_RELOAD_ALL}'" not in str(error):
                raise
            await self._on_workers("reload_weights", folder, timeout_s)
        query = {"reset_running_requests": "true"}
        answer = await self._call("POST", "/reset_prefix_cache", query=query, timeout_s=timeout_s)
        if not answer.get("success"):
            raise ServerFailed(f"{self.url} did not forget the prefixes that earlier weights computed")

    async def _on_workers(self, method: str, folder: Path, timeout_s: float) -> None:
        call = {"method": method, "kwargs": {"weights_path": str(folder)}, "timeout": timeout_s}
        await self._call("POST", "/collective_rpc", call, timeout_s=timeout_s)

    async def load_adapter(self, name: str, folder: Path, timeout_s: float) -> None:
        """Make an adapter answer to ``name``. Raises ``ServerFailed``."""
        body = {"lora_name": name, "lora_path": str(folder)}
        await self._call("POST", "/v1/load_lora_adapter", body, timeout_s=timeout_s)

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises ``ServerFailed``."""
        await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def answers(self, model: str, token_ids: Sequence[int]) -> list[float]:
        """Log-probabilities of all tokens but the first, by ``model``. Raises ``ServerFailed``."""
        body = {
            "model": model,
            "prompt": list(token_ids),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
            "add_special_tokens": False,
        }
        answer = await self._call("POST", "/v1/completions", body)
        try:
            entries = answer["choices"][0]["prompt_logprobs"][1:]
            pairs = zip(entries, token_ids[1:], strict=True)
            return [float(entry[str(token)]["logprob"]) for entry, token in pairs]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ServerFailed(f"{self.url} answered a probe without log-probabilities: {error!r}") from None

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float = _CONTROL_TIMEOUT_S,
    ) -> dict[str, Any]:
        """The JSON object that it answers, or an empty one. Raises ``ServerFailed``."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self.session.request(
                method, self.url + path, json=body, params=query, timeout=timeout
            ) as response:
                text = await response.text()
                if response.status != 200:
                    hint = _hint(path, response.status)
                    raise ServerFailed(f"{method} {self.url}{path}: {response.status}: {text[:500]}{hint}")
                is_json = response.content_type == "application/json"
                answer = await response.json() if is_json and text else {}
                return answer if isinstance(answer, dict) else {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = f"no answer within {timeout_s:g} s" if isinstance(error, TimeoutError) else str(error)
            raise ServerFailed(f"{method} {self.url}{path}: {why or type(error).__name__}") from error


def _hint(path: str, status: int) -> str:
    """What is missing when a server that somebody else started lacks a route."""
    if status != 404:
        return ""
    if path.endswith("_lora_adapter"):
        return "; start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
    return "; start it with VLLM_SERVER_DEV_MODE=1"


async def until_healthy(client: VllmClient, pause_s: float = 0.5) -> None:
    """Wait until it is; whoever calls sets the deadline."""
    while not await client.healthy():  # noqa: ASYNC110 - another process, asked over HTTP
        await asyncio.sleep(pause_s)
