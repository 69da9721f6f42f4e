"""What an agent finds in its environment: where the model is, a token for this attempt alone, its task."""

import json
from collections.abc import Collection, Mapping

from leyden_schemas import RolloutAssigned, Task

INHERITED = (
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY",
)  # fmt: skip
MAX_VARIABLE_BYTES = 96 * 1024
"""A larger variable would make every ``exec`` of the agent fail (Linux allows 128 KiB)."""


def inherited(environ: Mapping[str, str], extra: Collection[str]) -> dict[str, str]:
    """The runner's variables that agents see: a short list, so that none of its secrets is among them."""
    names = {*INHERITED, *extra}
    return {
        name: value
        for name, value in environ.items()
        if name in names or name.upper() in INHERITED or name.startswith("LC_")
    }


def task_json(task: Task) -> str:
    """The task as its agent may see it: without the reference answer and without how it is scored."""
    return json.dumps(task.model_dump(mode="json", exclude={"reference", "reward"}), separators=(",", ":"))


def agent_environment(
    assigned: RolloutAssigned, attempt: int, *, gateway_url: str, token: str, traceparent: str | None
) -> dict[str, str]:
    """The variables of one attempt, in the names that OpenAI's and Anthropic's clients read."""
    task = assigned.task
    attempt_url = f"{gateway_url.rstrip('/')}/rollouts/{assigned.rollout_id}/attempts/{attempt}"
    base_url = f"{attempt_url}/v1"
    variables = {
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_BASE": base_url,
        "OPENAI_API_KEY": token,
        "OPENAI_MODEL": task.policy,
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "ANTHROPIC_BASE_URL": attempt_url,
        "ANTHROPIC_API_KEY": token,
        "LEYDEN_ROLLOUT_ID": str(assigned.rollout_id),
        "LEYDEN_ATTEMPT": str(attempt),
        "LEYDEN_TENANT": assigned.tenant,
        "LEYDEN_RUN": assigned.run,
    }
    if traceparent:
        variables["TRACEPARENT"] = traceparent
    shown = task_json(task)
    if len(shown) <= MAX_VARIABLE_BYTES:
        variables["LEYDEN_TASK"] = shown
    return variables
