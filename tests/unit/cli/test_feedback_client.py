"""``leyden.feedback`` and ``leyden feedback``: what is sent, when it is sent again, what a refusal says."""

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import leyden
from leyden import feedback_client
from leyden.cli.__main__ import app
from leyden.cli.console import Failed

URL, KEY = "http://gateway:8000/v1", "sk-shop-0123456789"


class Gateway:
    """Answers as told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response | Exception] = []
        self.asked: list[tuple[str, dict[str, Any], str]] = []

    def post(self, url: str, *, json: Any, headers: dict[str, str], timeout: float) -> httpx.Response:
        self.asked.append((url, json, headers["Authorization"]))
        answer = self.answers.pop(0) if self.answers else httpx.Response(200, json={"rollout_id": "r"})
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    made = Gateway()
    monkeypatch.setattr(httpx, "post", made.post)
    monkeypatch.setattr(feedback_client, "_PAUSE_S", 0.0)
    for name in ("LEYDEN_GATEWAY_URL", "LEYDEN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_what_is_not_said_is_not_sent(gateway: Gateway) -> None:
    told = leyden.feedback(session="s", thumb="up", id="a", url=URL, api_key=KEY)
    assert told == {"rollout_id": "r"}
    assert gateway.asked == [
        ("http://gateway:8000/v1/feedback", {"session": "s", "thumb": "up", "id": "a"}, f"Bearer {KEY}")
    ]


def test_the_environment_says_where_and_who(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_GATEWAY_URL", "http://elsewhere")
    monkeypatch.setenv("LEYDEN_API_KEY", KEY)
    leyden.feedback(session="s", score=0.0, finish=True)
    ((url, body, key),) = gateway.asked
    assert (url, key) == ("http://elsewhere/v1/feedback", f"Bearer {KEY}")
    assert (body["score"], body["finish"]) == (0.0, True)


def test_a_gateway_that_was_away_gets_the_same_again(gateway: Gateway) -> None:
    gateway.answers = [httpx.ConnectError("refused"), httpx.Response(503, text="busy")]
    leyden.feedback(session="s", thumb="up", url=URL, api_key=KEY)
    bodies = [json.dumps(body) for _url, body, _key in gateway.asked]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1


def test_a_refusal_is_not_repeated(gateway: Gateway) -> None:
    gateway.answers = [httpx.Response(403, json={"error": {"message": "not for you"}})]
    with pytest.raises(leyden.FeedbackFailed, match="refused the feedback: not for you"):
        leyden.feedback(session="s", thumb="up", url=URL, api_key=KEY)
    assert len(gateway.asked) == 1


@pytest.mark.parametrize(
    "said",
    [
        {"score": float("nan")},
        {"comment": "half a smile: \ud83d"},
        {"finish": True, "output": object()},
        {"thumb": "up", "url": "http://[::1"},
        {"thumb": "up", "api_key": "schlüssel"},
    ],
    ids=["NaN", "half a character", "no JSON", "no URL", "no header"],
)
def test_what_cannot_be_sent_is_one_kind_of_error(said: dict[str, Any]) -> None:
    with pytest.raises(leyden.FeedbackFailed, match="this cannot be sent to"):
        leyden.feedback(session="s", **({"url": "http://127.0.0.1:9", "api_key": KEY} | said))


def test_what_answers_and_is_no_gateway_is_shown(gateway: Gateway) -> None:
    gateway.answers = [httpx.Response(200, text="<html>It works!")]
    with pytest.raises(leyden.FeedbackFailed, match="is no gateway: <html>It works!"):
        leyden.feedback(session="s", thumb="up", url=URL, api_key=KEY)


def test_one_that_stays_away_is_an_error(gateway: Gateway) -> None:
    gateway.answers = [httpx.ConnectError("refused")] * 3
    with pytest.raises(leyden.FeedbackFailed, match="did not answer: refused"):
        leyden.feedback(session="s", thumb="up", url=URL, api_key=KEY)


@pytest.mark.parametrize(("given", "missing"), [({"api_key": KEY}, "url"), ({"url": URL}, "api_key")])
def test_what_is_missing_is_named(gateway: Gateway, given: dict[str, str], missing: str) -> None:
    with pytest.raises(leyden.FeedbackFailed, match=missing):
        leyden.feedback(session="s", thumb="up", **given)  # type: ignore[arg-type]


def test_the_command(gateway: Gateway) -> None:
    command = ["feedback", "--session", "s", "--thumb", "down", "--correction", "7", "--finish"]
    run = CliRunner().invoke(app, [*command, "--gateway", URL, "--api-key", KEY])
    assert (run.exit_code, run.output) == (0, "recorded for rollout r\n")
    ((_url, body, _key),) = gateway.asked
    assert body | {"id": ""} == {
        "session": "s",
        "thumb": "down",
        "correction": "7",
        "finish": True,
        "id": "",
    }


def test_the_command_says_what_is_wrong(gateway: Gateway, tmp_path: Any) -> None:
    run = CliRunner().invoke(app, ["feedback", "--session", "s", "--dir", str(tmp_path), "--api-key", KEY])
    assert isinstance(run.exception, Failed)
    assert "or give --gateway URL" in str(run.exception)
