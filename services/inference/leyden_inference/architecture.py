"""Which models the engine can run: Qwen3 and Llama with plain rotary positions, read from ``config.json``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from leyden_inference.errors import UnsupportedModel

FAMILIES = ("qwen3", "llama")
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "quantization_config": (None,),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shapes of a decoder. Widths count elements, ``context`` counts positions."""

    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rope_theta: float
    norm_eps: float
    tied: bool

    @property
    def normalises_qk(self) -> bool:
        """Whether queries and keys pass an RMS norm of their own (Qwen3)."""
        return self.family == "qwen3"

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self:
        """Read a Hugging Face ``config.json``. Raises ``UnsupportedModel`` naming the field in the way."""
        family = config.get("model_type")
        if family not in FAMILIES:
            raise UnsupportedModel(f"model_type {family!r}; this engine runs {' and '.join(FAMILIES)}")
        for field, accepted in _MUST_BE.items():
            if config.get(field, accepted[0]) not in accepted:
                raise UnsupportedModel(f"{field} is {config[field]!r}; this engine needs {accepted[0]!r}")
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            return cls(
                family=family,
                vocabulary=int(config["vocab_size"]),
                hidden=hidden,
                intermediate=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                context=int(config["max_position_embeddings"]),
                rope_theta=_rope_theta(config),
                norm_eps=float(config["rms_norm_eps"]),
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except KeyError as error:
            raise UnsupportedModel(f"config.json has no {error.args[0]}") from None
        except (TypeError, ValueError) as error:
            raise UnsupportedModel(f"config.json: {error}") from None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``folder/config.json``. Raises ``UnsupportedModel``, also when it is absent or not JSON."""
        return cls.of(read_json(folder / "config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises ``UnsupportedModel`` naming the file."""
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UnsupportedModel(f"cannot read {path.name}: {error.strerror}") from None
    except ValueError as error:
        raise UnsupportedModel(f"{path.name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UnsupportedModel(f"{path.name} holds no JSON object")
    return value


def _rope_theta(config: dict[str, Any]) -> float:
    """transformers 5 writes ``rope_parameters``; before that ``rope_theta`` stood beside ``rope_scaling``."""
    rope = config.get("rope_parameters") or {}
    scaling = rope or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise UnsupportedModel(f"rope type {kind!r}; this engine runs the default rotary positions only")
    return float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
