"""The keys a call presents, wherever its client library puts them."""

from leyden_gateway.attribution.context import Headers


def presented(headers: Headers) -> list[bytes]:
    """Bearer credentials, then ``x-api-key`` (Anthropic's clients), then ``api-key`` (Azure's)."""
    found = [bearer(headers.get(b"authorization", b"")), headers.get(b"x-api-key"), headers.get(b"api-key")]
    return [key for raw in found if raw and (key := raw.strip())]


def bearer(authorization: bytes) -> bytes | None:
    """The credentials of a bearer ``Authorization`` header; None when there are none."""
    scheme, _, token = authorization.strip().partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


def looks_signed(key: bytes) -> bool:
    """Whether the key has the three parts of a JWT, unlike the placeholders that client libraries demand."""
    return key.count(b".") == 2
