"""What routes of both engines have in common: refusals become error objects, and every answer is counted."""

from collections.abc import Awaitable, Callable

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from leyden_inference import metrics
from leyden_inference.errors import RequestRefused
from leyden_platform.telemetry import span

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

_FAILED = RequestRefused(
    "the service failed to answer; its log says why", status=500, kind="server_error", code="internal_error"
)
_DISCONNECTED = 499
"""Status in metrics of a request whose client went away; nobody receives it."""


def answered(endpoint: str, handler: Handler) -> Handler:
    """Answer refusals with an OpenAI error object, and count."""

    async def answer(request: Request) -> Response:
        try:
            with span(f"inference {endpoint}", request.headers):
                response = await handler(request)
        except RequestRefused as refusal:
            response = JSONResponse(refusal.body(), status_code=refusal.status)
        except ClientDisconnect:
            metrics.DISCONNECTED.inc()
            response = Response(status_code=_DISCONNECTED)
        except Exception as error:  # the seam: one bad request must not look like a dead service
            log.error("request_failed", endpoint=endpoint, exc_info=error)
            response = JSONResponse(_FAILED.body(), status_code=_FAILED.status)
        metrics.REQUESTS.labels(endpoint, str(response.status_code)).inc()
        return response

    return answer


async def not_found(request: Request, error: Exception) -> Response:
    """A path or method that is not served."""
    status = getattr(error, "status_code", 404)
    refusal = RequestRefused(f"{request.method} {request.url.path} does not exist here", status=status)
    return JSONResponse(refusal.body(), status_code=status)
