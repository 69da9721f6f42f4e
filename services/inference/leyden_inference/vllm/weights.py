"""What a version's folder must be and must answer, before and after a server holds it."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from leyden_inference.errors import LoadFailed, UnsupportedModel
from leyden_inference.published import published_path, verified
from leyden_inference.vllm import metrics
from leyden_platform.artifacts import chat_template_digest, tokenizer_digest
from leyden_platform.probe import Probe, distance, looks_stale
from leyden_schemas import ModelPublished, WeightsKind, policy_at

log = structlog.get_logger(__name__)

FLOOR_NATS = 1e-4
"""Differences below this are never held against a reload."""
_NOISE = 10.0
"""How many times further off than a fresh start a reload's answers may be."""
_NOT_OF_THE_MODEL = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")


@dataclass(frozen=True, slots=True)
class Verified:
    """A version whose files are the published ones. ``shape`` is what a reload cannot change."""

    name: str
    folder: Path
    probe: Probe | None
    shape: str


async def verify(message: ModelPublished, probing: Literal["required", "when_possible", "off"]) -> Verified:
    """Check a version's files and find out what it must answer. Raises ``LoadFailed``."""
    return await asyncio.to_thread(_verify, message, probing)


def _verify(message: ModelPublished, probing: str) -> Verified:
    name, folder = policy_at(message.policy, message.version), published_path(message)
    probe = verified(folder, message.digest or None, message.kind)
    if probing == "off":
        probe = None
    elif probe is None:
        probe = _computed(name, folder, message.kind)
        if probe is None and probing == "required":
            raise LoadFailed(
                "unprobed", f"{name}: {folder} has no probe and the built-in engine cannot make one"
            )
    return Verified(name, folder, probe, _shape(folder))


def _computed(name: str, folder: Path, kind: WeightsKind) -> Probe | None:
    """What the built-in engine makes of the folder; torch is imported only when it comes to that."""
    if kind is not WeightsKind.FULL:
        return None
    from leyden_inference.probing import computed_probe

    try:
        return computed_probe(folder)
    except UnsupportedModel as error:
        log.warning("version_without_probe", model=name, why=str(error))
    except Exception as error:  # the seam: vLLM may run what the built-in engine stumbles over
        log.warning("version_without_probe", model=name, exc_info=error)
    return None


def _shape(folder: Path) -> str:
    """Architecture, tokenizer and chat template; a server must be started anew to change any of them."""
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_bytes())
    kept = {key: value for key, value in config.items() if key not in _NOT_OF_THE_MODEL}
    return json.dumps([kept, tokenizer_digest(folder), chat_template_digest(folder)], sort_keys=True)


def judge(
    version: Verified, served: list[float], *, before: Probe | None, limit: float, engine: int
) -> float:
    """How far off the answers of what is served are. Raises ``LoadFailed`` with reason probe.

    ``before`` is the probe of the weights that were there before.
    """
    assert version.probe is not None
    off = distance(version.probe.logprobs, served)
    metrics.PROBE_DISTANCE.labels(str(engine)).set(off)
    old = before.logprobs if before and before.token_ids == version.probe.token_ids else None
    stale = old is not None and off > FLOOR_NATS and looks_stale(served, version.probe.logprobs, old)
    if stale or off > limit:
        metrics.PROBES.labels("stale" if stale else "mismatch").inc()
        what = "as the version before" if stale else f"{off:.3g} nats off, more than {limit:.3g}"
        raise LoadFailed(
            "probe",
            f"{version.name}: the server answers {what}; its weights are not those of {version.folder}",
        )
    metrics.PROBES.labels("match").inc()
    return off


def reload_limit(tolerance: float, fresh: float | None) -> float:
    """How far off answers may be after a reload, given how far they were after the last fresh start."""
    return tolerance if fresh is None else min(tolerance, max(FLOOR_NATS, _NOISE * fresh))
