"""What reaches the log when a redaction hook is configured: never what it did not pass on."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from prometheus_client import REGISTRY
from pydantic import ValidationError

from leyden_gateway.exchange.fields import decoded, encode, of, parse
from leyden_gateway.recording.redaction import BadRedactionHook, Hook, Redaction, RedactionSettings, load_hook
from leyden_schemas import JsonObject

SECRET = "4111-1111"
CALM_S = 20.0


def record(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request": of({"model": "m", "user": "alice", "messages": [{"role": "user", "content": SECRET}]}),
        "response": {
            "choices": [
                {"message": {"content": "ok"}, "logprobs": {"content": [{"token": "ok"}]}, "token_ids": [7]}
            ],
            "prompt_token_ids": [1, 2],
        },
        "error": None,
        "user": "alice",
        "session": "alice",
        "untrainable": None,
        "prompt_token_ids": Raw(b"[1,2]"),
        "token_ids": Raw(b"[7]"),
        "logprobs": [-0.5],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1},
    }
    return fields | changes


def plain(fields: dict[str, Any]) -> Any:
    return decoded(encode(fields))


async def redacted(
    hook: Hook, fields: dict[str, Any], *, keep_ids: bool = False, timeout_s: float = CALM_S
) -> Any:
    return plain(await Redaction(hook, timeout_s=timeout_s, keep_ids=keep_ids).apply(fields))


def counted(kind: str, outcome: str) -> float:
    labels = {"kind": kind, "outcome": outcome}
    return REGISTRY.get_sample_value("leyden_gateway_redacted_total", labels) or 0.0


def unchanged(_kind: str, payload: JsonObject) -> JsonObject:
    return payload


def masks(kind: str, payload: JsonObject) -> JsonObject:
    if kind == "response":
        return payload
    messages = [{**message, "content": "****"} for message in payload["messages"]]
    return {**payload, "messages": messages, "user": "someone"}


def masks_in_place(kind: str, payload: JsonObject) -> JsonObject:
    if kind == "request":
        payload["messages"][0]["content"] = "****"
    return payload


async def masks_slowly(kind: str, payload: JsonObject) -> JsonObject:
    await asyncio.sleep(0)
    return masks(kind, payload)


def withholds(_kind: str, _payload: JsonObject) -> None:
    return None


def raises(_kind: str, payload: JsonObject) -> JsonObject:
    raise RuntimeError(f"cannot read {payload}")


def exits(_kind: str, _payload: JsonObject) -> JsonObject:
    raise SystemExit(3)


def answers_text(_kind: str, payload: JsonObject) -> Any:
    return str(payload)


def answers_no_json(_kind: str, payload: JsonObject) -> JsonObject:
    return {**payload, "lock": threading.Lock()}


async def raises_later(_kind: str, payload: JsonObject) -> JsonObject:
    raise KeyError(str(payload))


async def test_what_the_hook_passes_on_is_recorded_as_it_was() -> None:
    fields = record()
    assert await Redaction(unchanged, timeout_s=CALM_S, keep_ids=False).apply(fields) is fields


@pytest.mark.parametrize("hook", [masks, masks_in_place, masks_slowly])
async def test_a_changed_payload_is_stored_changed_without_what_decodes_to_it(hook: Hook) -> None:
    before = counted("request", "redacted")
    found = await redacted(hook, record())
    assert counted("request", "redacted") == before + 1
    assert SECRET not in str(found)
    assert found["request"]["messages"] == [{"role": "user", "content": "****"}]
    assert found["response"] == {"choices": [{"message": {"content": "ok"}}]}
    assert (found["prompt_token_ids"], found["token_ids"], found["logprobs"]) == ([], [], [])
    assert found["untrainable"] == "redacted"
    assert found["usage"] == {"prompt_tokens": 2, "completion_tokens": 1}


@pytest.mark.parametrize("hook", [unchanged, masks])
async def test_numbers_that_no_float_holds_reach_the_hook(hook: Hook) -> None:
    request = b'{"messages":[{"role":"user","content":"%b"}],"odd":1e999}' % SECRET.encode()
    found = await redacted(hook, record(request=parse(request), user=None, session=None))
    assert (SECRET in str(found)) is (hook is unchanged)
    assert found["untrainable"] == (None if hook is unchanged else "redacted")


async def test_who_the_request_named_is_redacted_with_it() -> None:
    found = await redacted(masks, record())
    assert (found["user"], found["session"]) == ("someone", "someone")
    found = await redacted(masks, record(session="from a header"))
    assert found["session"] == "from a header"
    found = await redacted(withholds, record())
    assert (found["user"], found["session"]) == (None, None)


async def test_ids_are_kept_where_that_is_wanted() -> None:
    found = await redacted(masks, record(), keep_ids=True)
    assert (found["prompt_token_ids"], found["token_ids"], found["logprobs"]) == ([1, 2], [7], [-0.5])
    assert (found["untrainable"], found["request"]["user"]) == (None, "someone")
    assert found["response"]["choices"][0]["token_ids"] == [7]


async def test_an_earlier_reason_stays() -> None:
    assert (await redacted(masks, record(untrainable="cancelled")))["untrainable"] == "cancelled"


async def test_none_withholds_the_payload() -> None:
    found = await redacted(withholds, record())
    assert (found["request"], found["response"], found["untrainable"]) == ({}, None, "redacted")


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (raises, "RuntimeError"),
        (raises_later, "KeyError"),
        (exits, "SystemExit"),
        (answers_text, "returned str instead of a dict or None"),
        (answers_no_json, "TypeError"),
    ],
)
@pytest.mark.parametrize("keep_ids", [True, False])
async def test_a_hook_that_fails_withholds_everything(
    hook: Hook, why: str, keep_ids: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    before = counted("request", "failed"), counted("response", "failed")
    found = await redacted(hook, record(), keep_ids=keep_ids)
    assert (counted("request", "failed"), counted("response", "failed")) == (before[0] + 1, before[1] + 1)
    assert (found["request"], found["response"], found["untrainable"]) == ({}, None, "redaction_failed")
    assert (found["prompt_token_ids"], found["token_ids"], found["logprobs"]) == ([], [], [])
    logged = "".join(capfd.readouterr())
    assert why in logged
    assert SECRET not in logged


async def test_a_hook_that_never_answers_withholds_in_time() -> None:
    asked, answer = threading.Event(), threading.Event()

    def blocks(_kind: str, payload: JsonObject) -> JsonObject:
        asked.set()
        answer.wait()
        return payload

    async def waits(_kind: str, payload: JsonObject) -> JsonObject:
        await asyncio.Event().wait()
        return payload

    for hook in (blocks, waits):
        found = await redacted(hook, record(), timeout_s=0.05)
        assert (found["request"], found["untrainable"]) == ({}, "redaction_failed")
    assert asked.is_set()
    answer.set()


async def test_hooks_that_hang_do_not_hold_up_later_calls_for_ever() -> None:
    release = threading.Event()

    def blocks(_kind: str, payload: JsonObject) -> JsonObject:
        release.wait()
        return payload

    redaction = Redaction(blocks, timeout_s=0.05, keep_ids=False)
    found = await asyncio.gather(*(redaction.apply(record()) for _ in range(20)))
    assert {fields["untrainable"] for fields in found} == {"redaction_failed"}
    release.set()
    patient = Redaction(unchanged, timeout_s=CALM_S, keep_ids=False)
    assert (await patient.apply(record()))["untrainable"] is None


async def test_an_error_s_text_is_asked_about_as_an_answer() -> None:
    seen: list[tuple[str, JsonObject]] = []

    def hides(kind: str, payload: JsonObject) -> JsonObject:
        seen.append((kind, payload))
        return {"error": "****"} if "error" in payload else payload

    found = await redacted(hides, record(response=None, error=f"bad: {SECRET}", untrainable="upstream_error"))
    assert ("response", {"error": f"bad: {SECRET}"}) in seen
    assert (found["error"], found["untrainable"], found["response"]) == ("****", "upstream_error", None)
    assert (await redacted(withholds, record(error=SECRET)))["error"] == "(redacted)"


HOOK = "def redact(kind, payload):\n    return None\nNOT_A_FUNCTION = 1\n"


def test_a_hook_is_found_like_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gateway_redaction_of_test.py").write_text(HOOK)
    monkeypatch.setattr("sys.path", ["unused"])
    monkeypatch.setenv("LEYDEN_CATALOGUE_PATH", f'["{tmp_path}"]')
    monkeypatch.setenv("LEYDEN_GATEWAY_REDACT", "gateway_redaction_of_test:redact")
    assert Redaction.of(RedactionSettings()) is not None


def test_without_a_hook_there_is_no_redaction() -> None:
    assert Redaction.of(RedactionSettings()) is None


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("no_such_module_here:redact", "LEYDEN_CATALOGUE_PATH"),
        ("json:no_such_function", "AttributeError"),
        ("json:__name__", "is not a function"),
    ],
)
def test_a_missing_hook_stops_the_start(target: str, hint: str) -> None:
    with pytest.raises(BadRedactionHook, match=hint):
        load_hook(target, [])


@pytest.mark.parametrize("target", ["redact", "module:", ":redact", "a b:c"])
def test_a_hook_is_named_by_module_and_function(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("LEYDEN_GATEWAY_REDACT", target)
    with pytest.raises(ValidationError, match="pattern"):
        RedactionSettings()
