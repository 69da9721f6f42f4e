"""The one error of the dialects: a request that has no equivalent chat completion."""


class UnsupportedRequest(ValueError):
    """The request is malformed, or asks for something that chat completions cannot do.

    ``message`` says what was wrong and what to do instead; ``param`` is the place in the request, such as
    ``input[3].output``, or None when it is the request as a whole; ``code`` the protocol's own name of the
    cause, where its clients act on one.
    """

    def __init__(self, message: str, param: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
