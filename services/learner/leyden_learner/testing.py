"""A testing kit: samples with chosen values, a small random model, and a registry that can be away."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from leyden_platform.artifacts import IncompleteArtifact, artifact_path, verify_artifact
from leyden_platform.objects import is_object_url
from leyden_schemas import TokenRow, TokenSpan, TrainingSample, WeightsKind
from leyden_schemas.base import JsonObject

VOCABULARY = 32
_SPACE = UUID("00000000-0000-0000-0000-000000000001")


def make_span(start: int, logprobs: list[float], advantage: float = 1.0, version: int = 0) -> TokenSpan:
    """Tokens from ``start`` on, sampled with these logprobs."""
    return TokenSpan(
        start=start,
        logprobs=logprobs,
        advantage=advantage,
        version=version,
        completion_id=uuid5(_SPACE, "completion"),
    )


def make_row(token_ids: list[int], *spans: TokenSpan) -> TokenRow:
    """A token row."""
    return TokenRow(token_ids=token_ids, spans=list(spans))


def make_sample(index: int = 0, *rows: TokenRow, **changes: Any) -> TrainingSample:
    """The sample of rollout number ``index``; without rows, one of eight tokens that depend on the number."""
    default = make_row(
        [(index * 7 + 3 * position + 1) % VOCABULARY for position in range(8 + index % 3)],
        make_span(3, [-3.4, -3.5, -3.3], advantage=1.0 if index % 2 else -1.0),
    )
    values: dict[str, Any] = {
        "sample_id": uuid5(_SPACE, f"sample-{index}"),
        "rollout_id": uuid5(_SPACE, f"rollout-{index}"),
        "group_id": uuid5(_SPACE, "group"),
        "policy": "tiny",
        "rows": list(rows) or [default],
        "reward": float(index % 2),
        "estimator": "grpo",
        "group_size": 2,
        "created_at": "2026-01-01T00:00:00Z",
    }
    return TrainingSample.model_validate(values | changes)


def write_model(folder: Path, *, seed: int = 0) -> Path:
    """A Qwen3 of a few thousand random parameters with the files of a complete artifact."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        dtype="float32",
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps({"made_for": "tests"}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


class RegistryStub:
    """The part of the registry's API that a learner uses, in memory. ``away`` makes it answer 503."""

    def __init__(self, policy: str, first: Path | None) -> None:
        self.away = False
        self.asked = 0
        self.digests: dict[str, str] = {}
        self.pins: dict[int, str] = {}
        self.retired: list[int] = []
        self.aliases: dict[str, int] = {}
        self.versions: list[JsonObject] = []
        self.policy = policy
        if first:
            self.publish(first)
        path = f"/v1/policies/{policy}"
        self.app = Starlette(
            routes=[
                Route(path, self._policy),
                Route(f"{path}/versions", self._register, methods=["POST"]),
                Route(f"{path}/versions/{{number:int}}", self._version),
                Route(f"{path}/versions/{{number:int}}/pins/{{holder}}", self._pin, methods=["PUT"]),
                Route(f"{path}/versions/{{number:int}}/retire", self._retire, methods=["POST"]),
            ]
        )

    def publish(self, folder: Path) -> None:
        """Make a folder the newest version, as an import does."""
        self._add({"version_id": str(uuid5(_SPACE, folder.name)), "artifact": folder.as_uri()})

    @property
    def registered(self) -> list[JsonObject]:
        """Versions that a learner registered, in order."""
        return [version for version in self.versions if "step" in version]

    def _add(self, body: JsonObject) -> JsonObject:
        uri = body["artifact"]
        kind = WeightsKind(body.get("kind", "full"))
        digest = self.digests[uri] if is_object_url(uri) else verify_artifact(artifact_path(uri), kind)
        self.versions.append({**body, "version": len(self.versions), "digest": digest})
        return self.versions[-1]

    async def _policy(self, _request: Request) -> Response:
        if self.away or not self.versions:
            return self._cannot()
        return JSONResponse({"aliases": {"latest": len(self.versions) - 1, **self.aliases}})

    async def _pin(self, request: Request) -> Response:
        self.pins[request.path_params["number"]] = request.path_params["holder"]
        return self._cannot() if self.away else JSONResponse({})

    async def _retire(self, request: Request) -> Response:
        if self.away:
            return self._cannot()
        number = request.path_params["number"]
        held = "alias" if number in self.aliases.values() else "pinned" if number in self.pins else ""
        held = held or ("base" if self._lies_under_adapters(number) else "")
        if held or number == len(self.versions) - 1:
            return JSONResponse({"error": {"message": "", "reason": held or "newest"}}, status_code=409)
        self.retired.append(number)
        return JSONResponse({})

    def _lies_under_adapters(self, number: int) -> bool:
        return any(
            version.get("kind") == "lora"
            and version["parent"] == number
            and version["version"] not in self.retired
            for version in self.versions
        )

    async def _version(self, request: Request) -> Response:
        return self._cannot() if self.away else JSONResponse(self.versions[request.path_params["number"]])

    async def _register(self, request: Request) -> Response:
        if self.away:
            return self._cannot()
        body = await request.json()
        known = [version for version in self.versions if version["version_id"] == body["version_id"]]
        if known:
            return JSONResponse(known[0])
        try:
            return JSONResponse(self._add(body), status_code=201)
        except IncompleteArtifact as error:
            return JSONResponse({"error": {"message": str(error)}}, status_code=422)

    def _cannot(self) -> Response:
        self.asked += 1
        return JSONResponse({"error": {"message": "not now"}}, status_code=503 if self.away else 404)
