"""What the replica is asked for: the caller's request with sampling and capture parameters settled.

Training forces what makes log-probabilities usable (they must be those of the distribution that was
sampled from); evaluation fills in what the caller left out; production traffic is left alone.
Token ids, log-probabilities and usage are always asked for, and later removed again if the caller did not.
"""

from dataclasses import dataclass
from typing import Any

from leyden_gateway.errors import InvalidRequest
from leyden_gateway.exchange.fields import Fields, encode, value
from leyden_platform.tokens import RolloutClaims
from leyden_schemas import JsonObject, Protocol, Sampling, Split

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

REMOVED = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "best_of",
        "custom_logit_processor",
        "echo",
        "logit_bias",
        "logits_processors",
        "min_tokens",
        "thinking_token_budget",
        "use_beam_search",
        "vllm_xargs",
    }
)
"""Parameters that bend the distribution, force tokens that were not sampled, or change what log-probabilities
belong to, without a neutral value: those of OpenAI, vLLM and SGLang."""

CONSTRAINTS = frozenset(
    {
        "ebnf",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_json_object",
        "guided_regex",
        "regex",
        "structural_tag",
        "structured_outputs",
    }
)
"""Parameters of vLLM and SGLang that forbid tokens at every step: agents rely on the form of the answer, so
they pass, but the log-probabilities are not those of the distribution that was sampled from."""

_BENDING = CONSTRAINTS | REMOVED

MAX_TOKENS = ("max_completion_tokens", "max_tokens")
TEXT = "/v1/completions"

_USED = ("temperature", "top_p", "top_k", "seed", *MAX_TOKENS)
_SETTLED = frozenset(
    {*_USED, *FORCED, *REMOVED, "n", "logprobs", "return_token_ids", "stream", "stream_options"}
)


@dataclass(frozen=True, slots=True)
class Wants:
    """Which of the captured things the caller asked for itself."""

    token_ids: bool = False
    logprobs: bool = False
    usage: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready for a replica, but for its model's name."""

    body: dict[str, Any]
    sampling: JsonObject
    """The fields of ``SamplingUsed``."""
    wants: Wants
    forced: bool
    choices: int
    """How many alternatives will come."""
    untrainable: str | None = None
    """Why nothing of the answer can be trained on, if that is known from the request."""
    path: str = "/v1/chat/completions"

    def encode(self, model: str) -> bytes:
        """The request's bytes, addressed to ``model``."""
        return encode({**self.body, "model": model})


def prepare(request: Fields, claims: RolloutClaims | None, protocol: Protocol = Protocol.CHAT) -> Prepared:
    """Settle the parameters of ``request``, which stays as it was. Raises ``InvalidRequest``."""
    forced = claims is not None and claims.split is Split.TRAIN
    overridden: JsonObject = {}
    body: dict[str, Any] = dict(request)
    asked = _asked(request)
    if claims is not None and forced:
        overridden = _force(asked, body, claims.sampling)
    elif claims is not None:
        _fill(asked, body, claims.sampling)
    text = protocol is Protocol.COMPLETIONS
    return Prepared(
        body=body | _capture(asked, text=text),
        sampling=_used(asked, body, overridden),
        wants=_wants(asked),
        forced=forced,
        choices=_alternatives(asked) * (_prompts(request) if text else 1),
        untrainable=_bent(request, forced=forced),
        path=TEXT if text else "/v1/chat/completions",
    )


_TEMPLATES = ("add_generation_prompt", "chat_template_kwargs", "continue_final_message")
"""What translated requests say to chat templates: servers elsewhere refuse fields that they do not know."""


def without_templates(request: Fields, given: Fields) -> Fields:
    """A translated request for a server that may have no chat template; what was given as such stays."""
    return {name: raw for name, raw in request.items() if name not in _TEMPLATES or name in given}


def untouched(request: Fields, path: str) -> Prepared:
    """The request as it is, for servers and operations from which no tokens are captured.

    Raises ``InvalidRequest``.
    """
    wants = Wants(token_ids=True, logprobs=True, usage=True)
    asked = _asked(request)
    choices = _alternatives(asked) * (_prompts(request) if path == TEXT else 1)
    return Prepared(dict(request), _used(asked, {}, {}), wants, forced=False, choices=choices, path=path)


def _asked(request: Fields) -> JsonObject:
    """The parameters that are settled, read here, as the caller gave them."""
    return {name: value(request, name) for name in request if name in _SETTLED}


def _bent(request: Fields, *, forced: bool) -> str | None:
    """Why log-probabilities are not those of the distribution sampled from, if the request sees to that."""
    names = _BENDING & request.keys()
    if not names:
        return None
    given = {name: value(request, name) for name in names}
    if any(given[name] for name in names & CONSTRAINTS):
        return "guided_decoding"
    if given.get("best_of") == 1:
        del given["best_of"]
    return None if forced or not any(given.values()) else "altered_sampling"


def _force(asked: JsonObject, body: dict[str, Any], sampling: Sampling) -> JsonObject:
    overridden: JsonObject = {}
    for name, forced in {"temperature": sampling.temperature, **FORCED}.items():
        if (own := asked.get(name)) is not None and own != forced:
            overridden[name] = own
        body[name] = forced
    for name in REMOVED & asked.keys():
        del body[name]
        if asked[name] is not None:
            overridden[name] = asked[name]
    return overridden | _bound_tokens(asked, body, sampling.max_tokens)


def _bound_tokens(asked: JsonObject, body: dict[str, Any], limit: int | None) -> JsonObject:
    """The task's limit is an upper bound: a caller may ask for less, not for more, under either name."""
    if limit is None:
        return {}
    overridden: JsonObject = {}
    names = [name for name in MAX_TOKENS if asked.get(name) is not None]
    for name in names:
        if (number := _whole(asked[name])) is None or number > limit:
            body[name], overridden[name] = limit, asked[name]
    if not names:
        body["max_tokens"] = limit
    return overridden


def _fill(asked: JsonObject, body: dict[str, Any], sampling: Sampling) -> None:
    if asked.get("temperature") is None:
        body["temperature"] = sampling.temperature
    if sampling.max_tokens is not None and all(asked.get(name) is None for name in MAX_TOKENS):
        body["max_tokens"] = sampling.max_tokens


def _capture(asked: JsonObject, *, text: bool) -> JsonObject:
    """Text completions ask for logprobs by a number; any brings the sampled token's."""
    captured: JsonObject = {"return_token_ids": True, "logprobs": True}
    if text:
        number = _whole(asked.get("logprobs"))
        captured["logprobs"] = 1 if number is None else number
    options = asked.get("stream_options")
    if asked.get("stream") is True and (options is None or isinstance(options, dict)):
        captured["stream_options"] = {**(options or {}), "include_usage": True}
    return captured


def _wants(asked: JsonObject) -> Wants:
    options, logprobs = asked.get("stream_options"), asked.get("logprobs")
    return Wants(
        token_ids=asked.get("return_token_ids") is True,
        logprobs=logprobs is True or _whole(logprobs) is not None,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _alternatives(asked: JsonObject) -> int:
    """``n``, which budgets and streams count by: what some servers would read as a number is refused."""
    n = asked.get("n")
    if n is None:
        return 1
    if _whole(n) is None or n < 1:
        raise InvalidRequest("`n` has to be a whole number of at least 1", param="n")
    return int(n)


def _prompts(request: Fields) -> int:
    """How many prompts a text completion has: a list of texts or of lists of ids is several."""
    prompt = value(request, "prompt")
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return len(prompt) if several else 1


def _used(asked: JsonObject, body: dict[str, Any], overridden: JsonObject) -> JsonObject:
    settled = asked | {name: body[name] for name in _USED if isinstance(body.get(name), int | float)}
    limits = (_whole(settled.get(name)) for name in MAX_TOKENS)
    return {
        "temperature": _number(settled.get("temperature")),
        "top_p": _number(settled.get("top_p")),
        "top_k": _whole(settled.get("top_k")),
        "max_tokens": next((limit for limit in limits if limit is not None), None),
        "seed": _whole(settled.get("seed")),
        "overridden": overridden,
    }


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
