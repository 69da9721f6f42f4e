"""What clients ask for: the OpenAI request bodies with vLLM's extensions, validated.

Parameters that would change which tokens are sampled are carried out or refused, never ignored.
"""

from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leyden_inference.errors import RequestRefused
from leyden_inference.sampling import SamplingParams

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 128
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "length_penalty": (None, 1),
    "logit_bias": (None, {}),
    "use_beam_search": (None, False),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None, []),
    "guided_grammar": (None,),
    "prompt_logprobs": (None,),
    "prompt_embeds": (None,),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "stop_token_ids": (None, []),
    "include_stop_str_in_output": (None, False),
    "skip_special_tokens": (None, True),
    "logits_processors": (None, []),
    "truncate_prompt_tokens": (None,),
    "chat_template": (None,),
    "documents": (None, []),
    "functions": (None, []),
}
"""Parameters that this engine lacks and that change a prompt, what is sampled or its text, and the values
with which they change nothing."""


class StreamOptions(BaseModel):
    """``stream_options``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    include_usage: bool = False


class CompletionFields(BaseModel):
    """What chat and text completions share."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str = Field(min_length=1)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_lacking(cls, body: Any) -> Any:
        if isinstance(body, dict):
            for name, neutral in _NEUTRAL.items():
                if body.get(name) not in neutral:
                    raise ValueError(
                        f"{name} is not supported by the built-in engine; serve with vLLM for it"
                    )
        return body

    @model_validator(mode="after")
    def _few_stops(self) -> Self:
        if len(self.stops) > MAX_STOPS:
            raise ValueError(f"stop: {len(self.stops)} strings, at most {MAX_STOPS} are looked for")
        return self

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are returned."""
        raise NotImplementedError

    @property
    def top(self) -> int:
        """How many of the likeliest tokens are returned at each position."""
        raise NotImplementedError

    @property
    def token_limit(self) -> int | None:
        """The most tokens asked for."""
        return self.max_tokens

    def params(self, defaults: dict[str, Any], room: int) -> SamplingParams:
        """Sampling parameters: the request's, else the model's, else the protocol's.

        ``room`` is how many tokens fit behind the prompt. As in vLLM, ``max_new_tokens`` of the model's
        generation configuration also caps what a request asks for.
        """
        limits = [limit for limit in (self.token_limit, defaults.get("max_new_tokens"), room) if limit]
        return SamplingParams(
            temperature=float(_first(self.temperature, defaults.get("temperature"), 1.0)),
            top_p=float(_first(self.top_p, defaults.get("top_p"), 1.0)),
            top_k=max(0, int(_first(self.top_k, defaults.get("top_k"), 0))),
            seed=self.seed,
            max_tokens=min(limits),
            ignore_eos=self.ignore_eos,
            top_logprobs=self.top,
        )


class ChatRequest(CompletionFields):
    """The body of ``/v1/chat/completions``."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: Literal[False] = False

    @model_validator(mode="after")
    def _only_free_text(self) -> "ChatRequest":
        if self.tool_choice not in (None, "auto", "none"):
            raise ValueError("tool_choice: the built-in engine knows auto and none; it cannot force a call")
        if self.response_format and self.response_format.get("type") != "text":
            raise ValueError("response_format: the built-in engine writes free text only")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        for message in self.messages:
            if not isinstance(message.get("role"), str):
                raise ValueError("messages: every message needs a role")
        if taken := self.chat_template_kwargs.keys() & {"messages", "tools"}:
            raise ValueError(f"chat_template_kwargs: {min(taken)} has a field of its own")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """``logprobs``."""
        return bool(self.logprobs)

    @property
    def top(self) -> int:
        """``top_logprobs``."""
        return self.top_logprobs or 0

    @property
    def token_limit(self) -> int | None:
        """``max_completion_tokens``, or the older ``max_tokens``."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def parses_tools(self) -> bool:
        """Whether tool calls are looked for in what the model says."""
        return bool(self.tools) and self.tool_choice != "none"


class CompletionRequest(CompletionFields):
    """The body of ``/v1/completions``: a text or token ids; several prompts are several requests."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    add_special_tokens: bool = True

    @property
    def wants_logprobs(self) -> bool:
        """``logprobs`` was given, also as 0."""
        return self.logprobs is not None

    @property
    def top(self) -> int:
        """``logprobs``."""
        return self.logprobs or 0

    @property
    def single_prompt(self) -> str | list[int]:
        """The prompt. Raises ``RequestRefused`` when there are several."""
        match self.prompt:
            case str():
                return self.prompt
            case [str() as text]:
                return text
            case [[*ids]]:
                return ids
            case [int(), *_]:
                return [token for token in self.prompt if isinstance(token, int)]
            case _:
                raise RequestRefused("send one prompt a request, and not an empty one", param="prompt")


class TokenizeRequest(BaseModel):
    """The body of ``/tokenize``: a text, or messages with tools."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = Field(min_length=1)
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


BodyT = TypeVar("BodyT", bound=BaseModel)


def parse(kind: type[BodyT], body: Any) -> BodyT:
    """The validated body. Raises ``RequestRefused`` naming the first field that is wrong."""
    if not isinstance(body, dict):
        raise RequestRefused("the body must be a JSON object")
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in item["loc"]) or None
        message = item["msg"].removeprefix("Value error, ")
        raise RequestRefused(f"{param}: {message}" if param else message, param=param) from None


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
