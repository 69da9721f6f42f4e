"""How sending a call upstream can fail before an answer begins; later failures are ``ApiError``s."""


class ReplicaUnavailable(Exception):
    """The replica did not begin an answer, so nothing was sampled that anybody saw: safe to send again."""

    def __init__(self, reason: str, text: str, refusal: "UpstreamRefused | None" = None) -> None:
        super().__init__(text)
        self.reason, self.refusal = reason, refusal


class UpstreamRefused(Exception):
    """The replica answered with an error, to be passed on with its status and body."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(f"the replica answered {status}")
        self.status, self.body, self.headers = status, body, headers
