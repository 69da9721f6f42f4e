"""What can go wrong, and how an OpenAI client is told."""

from typing import Any

from leyden_schemas import writable


class InferenceError(Exception):
    """Base of this package's errors."""


class UnsupportedModel(InferenceError):
    """The folder holds a model this engine cannot run; the text names the field and what is supported."""


class LoadFailed(InferenceError):
    """A version could not be loaded. ``reason`` is a metric label, the text says what to mend."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class RequestRefused(InferenceError):
    """A request that gets an OpenAI error object instead of a completion."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    def body(self) -> dict[str, Any]:
        """The OpenAI error object."""
        error = {"message": writable(str(self)), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


class UnknownModel(RequestRefused):
    """No loaded version answers to the name."""

    def __init__(self, name: str, loaded: list[str]) -> None:
        known = ", ".join(loaded) or "none"
        super().__init__(
            f"The model `{name}` does not exist. Loaded: {known}.",
            status=404,
            kind="not_found_error",
            param="model",
            code="model_not_found",
        )


class QueueFull(RequestRefused):
    """More requests wait than the bound allows."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} requests are already waiting; try again later or add a replica.",
            status=503,
            kind="overloaded_error",
            code="queue_full",
        )


class EngineStopped(RequestRefused):
    """The engine stopped before the completion was finished."""

    def __init__(self, why: str = "the engine is shutting down") -> None:
        super().__init__(why, status=503, kind="server_error", code="engine_stopped")
