"""What the replica is asked for: the caller's request with sampling and capture parameters settled.

Training forces what makes log-probabilities usable (they must be those of the distribution that was
sampled from); evaluation fills in what the caller left out; a session without a token is left alone.
Token ids, log-probabilities and usage are always asked for, and later removed again if the caller did not.
"""

from dataclasses import dataclass

from pydantic_core import to_json

from leyden_platform.tokens import RolloutClaims
from leyden_schemas import JsonObject, Sampling, SamplingUsed, Split

FORCED: JsonObject = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""Values that leave the distribution as the model made it. Sent explicitly, because servers default
some of them from the model's generation config."""

REMOVED = ("logit_bias", "bad_words", "allowed_token_ids", "min_tokens", "use_beam_search")
"""Parameters that bend the distribution and have no neutral value."""

MAX_TOKENS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class Wants:
    """Which of the captured things the caller asked for itself."""

    token_ids: bool = False
    logprobs: bool = False
    usage: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready for a replica, but for its model's name."""

    body: JsonObject
    sampling: SamplingUsed
    wants: Wants
    forced: bool
    choices: int
    """How many alternatives (``n``) were asked for."""
    path: str = "/v1/chat/completions"

    def encode(self, model: str) -> bytes:
        """The request's bytes, addressed to ``model``."""
        return to_json({**self.body, "model": model})


def prepare(request: JsonObject, claims: RolloutClaims | None) -> Prepared:
    """Settle the parameters of ``request``, which stays as it was."""
    body = dict(request)
    overridden: JsonObject = {}
    forced = claims is not None and claims.split is Split.TRAIN
    if claims is not None and forced:
        overridden = _force(body, claims.sampling)
    elif claims is not None:
        _fill(body, claims.sampling)
    return Prepared(
        body=body | _capture(body),
        sampling=_used(body, overridden),
        wants=_wants(request),
        forced=forced,
        choices=max(1, _whole(request.get("n")) or 1),
    )


def _force(body: JsonObject, sampling: Sampling) -> JsonObject:
    overridden: JsonObject = {}
    for name, value in {"temperature": sampling.temperature, **FORCED}.items():
        asked = body.get(name)
        if asked is not None and asked != value:
            overridden[name] = asked
        body[name] = value
    for name in REMOVED:
        if (asked := body.pop(name, None)) is not None:
            overridden[name] = asked
    return overridden | _bound_tokens(body, sampling.max_tokens)


def _bound_tokens(body: JsonObject, limit: int | None) -> JsonObject:
    """The task's limit is an upper bound: a caller may ask for less, not for more."""
    if limit is None:
        return {}
    name = next((name for name in MAX_TOKENS if body.get(name) is not None), "max_tokens")
    asked = body.get(name)
    if (number := _whole(asked)) is not None and number <= limit:
        return {}
    body[name] = limit
    return {} if asked is None else {name: asked}


def _fill(body: JsonObject, sampling: Sampling) -> None:
    if body.get("temperature") is None:
        body["temperature"] = sampling.temperature
    if sampling.max_tokens is not None and all(body.get(name) is None for name in MAX_TOKENS):
        body["max_tokens"] = sampling.max_tokens


def _capture(body: JsonObject) -> JsonObject:
    asked: JsonObject = {"return_token_ids": True, "logprobs": True}
    options = body.get("stream_options")
    if body.get("stream") is True and (options is None or isinstance(options, dict)):
        asked["stream_options"] = {**(options or {}), "include_usage": True}
    return asked


def _wants(request: JsonObject) -> Wants:
    options = request.get("stream_options")
    return Wants(
        token_ids=request.get("return_token_ids") is True,
        logprobs=request.get("logprobs") is True,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _used(body: JsonObject, overridden: JsonObject) -> SamplingUsed:
    limits = (_whole(body.get(name)) for name in MAX_TOKENS)
    return SamplingUsed(
        temperature=_number(body.get("temperature")),
        top_p=_number(body.get("top_p")),
        top_k=_whole(body.get("top_k")),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        seed=_whole(body.get("seed")),
        overridden=overridden,
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
