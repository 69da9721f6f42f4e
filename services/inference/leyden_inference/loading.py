"""From a checkpoint folder to something that can be served, or a reason why not."""

import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from leyden_inference import metrics
from leyden_inference.adapters import merged
from leyden_inference.architecture import Architecture, read_json
from leyden_inference.chat import ChatTemplate, chat_template
from leyden_inference.decoder import Decoder
from leyden_inference.errors import LoadFailed, UnsupportedModel
from leyden_inference.probing import answers
from leyden_inference.published import published_path, verified
from leyden_inference.text import Tokenizer
from leyden_inference.weights import fuse, read_tensors
from leyden_platform.artifacts import chat_template_digest, tokenizer_digest
from leyden_platform.probe import Probe, distance
from leyden_schemas import ModelPublished, WeightsKind

log = structlog.get_logger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

_KEPT_TEXTS = 4
_PROBE_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.25}
"""Far above what two implementations differ by, far below what other weights answer; in nats."""


@dataclass(frozen=True, slots=True)
class TextSide:
    """A tokenizer and its chat template; versions of a policy usually share one."""

    tokenizer: Tokenizer
    template: ChatTemplate | None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version in memory. ``defaults`` are the generation configuration's sampling defaults."""

    decoder: Decoder
    text: TextSide
    eos: frozenset[int]
    defaults: dict[str, Any]


class Loader:
    """Loads folders; tokenizers that are byte for byte the same are loaded once. Not for concurrent use."""

    def __init__(self, context: int | None = None, precision: torch.dtype = torch.float32) -> None:
        self._context, self._precision = context, precision
        self._texts: OrderedDict[tuple[str, str], TextSide] = OrderedDict()

    def load_published(self, message: ModelPublished, parent: ModelPublished | None = None) -> LoadedModel:
        """Load what the registry announced, after checking that it is complete and the same bytes.

        An adapter is added into the weights of its ``parent``, which is checked as well.
        Raises ``LoadFailed`` with reason missing, empty, truncated, malformed, digest, unsupported or probe.
        """
        folder = published_path(message)
        if message.kind is WeightsKind.FULL:
            return self.load_folder(folder, message.digest)
        if parent is None or parent.kind is not WeightsKind.FULL:
            raise LoadFailed(
                "unsupported",
                f"an adapter over version {message.parent}, of which no full weights are published",
            )
        probe, base = verified(folder, message.digest, message.kind), published_path(parent)
        verified(base, parent.digest)
        return self._loaded(base, probe, adapter=folder)

    def load_folder(self, folder: Path, digest: str | None = None) -> LoadedModel:
        """Load a folder, whose digest must be ``digest`` when that is given. Raises ``LoadFailed``."""
        return self._loaded(folder, verified(folder, digest))

    def _loaded(self, folder: Path, probe: Probe | None, *, adapter: Path | None = None) -> LoadedModel:
        began = time.perf_counter()
        try:
            model = self._load(folder, adapter)
            if probe:
                _compare(folder, model.decoder, probe, _PROBE_TOLERANCE[self._precision])
        except UnsupportedModel as error:
            raise LoadFailed("unsupported", f"{folder}: {error}") from None
        except OSError as error:
            raise LoadFailed("unreadable", f"{folder}: {error}") from None
        except LoadFailed:
            raise
        except Exception as error:  # the seam: whatever a folder holds, other versions are served on
            log.error("version_unreadable", folder=str(folder), exc_info=error)
            raise LoadFailed("unsupported", f"{folder}: {type(error).__name__}: {error}") from error
        metrics.LOAD_SECONDS.observe(time.perf_counter() - began)
        return model

    def _load(self, folder: Path, adapter: Path | None) -> LoadedModel:
        tensors = read_tensors(folder)
        if adapter:
            tensors = merged(tensors, adapter)
        arch = Architecture.load(folder)
        generation = _optional_json(folder / "generation_config.json")
        text = self._text(folder)
        return LoadedModel(
            decoder=Decoder(arch, fuse(tensors, arch, self._precision), self._context),
            text=text,
            eos=_eos(generation, read_json(folder / "config.json"), text.tokenizer),
            defaults={
                name: generation[name]
                for name in ("temperature", "top_p", "top_k", "max_new_tokens")
                if generation.get(name) is not None
            },
        )

    def _text(self, folder: Path) -> TextSide:
        key = (tokenizer_digest(folder), chat_template_digest(folder))
        text = self._texts.get(key)
        if text is None:
            tokenizer = Tokenizer(folder)
            text = self._texts[key] = TextSide(tokenizer, chat_template(folder, tokenizer))
            if len(self._texts) > _KEPT_TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return text


def _compare(folder: Path, decoder: Decoder, probe: Probe, tolerance: float) -> None:
    """What is loaded answers as whoever made the weights said. Raises ``LoadFailed`` with reason probe."""
    if not 0 <= min(probe.token_ids) <= max(probe.token_ids) < decoder.arch.vocabulary:
        raise LoadFailed("malformed", f"{folder}: its probe has tokens beyond the vocabulary")
    length = min(len(probe.token_ids), decoder.context)
    off = distance(probe.logprobs[: length - 1], answers(decoder, probe.token_ids[:length]))
    if off > tolerance:
        raise LoadFailed(
            "probe",
            f"{folder}: its weights answer {off:.3g} nats off from what the learner's did; publish it anew",
        )


def _optional_json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _eos(generation: dict[str, Any], config: dict[str, Any], tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that ends a completion: the configurations' and the tokenizer's own."""
    found: set[int] = set()
    for value in (generation.get("eos_token_id"), config.get("eos_token_id")):
        found |= set(value) if isinstance(value, list) else {value} if isinstance(value, int) else set()
    named = tokenizer.special_tokens().get("eos_token")
    token = tokenizer.id_of(named) if named else None
    return frozenset(found | ({token} if token is not None else set()))
