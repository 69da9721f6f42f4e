"""The short way of reading a whole answer gives what the long way gives, or leaves it to the long way."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_gateway.exchange.answers import read_answer, read_lifted
from leyden_gateway.exchange.capture import Capture
from leyden_gateway.exchange.fields import encode
from leyden_gateway.exchange.lifting import STAND_IN, lift
from leyden_gateway.exchange.training_mode import Wants

TEXT = st.text(max_size=6) | st.sampled_from(
    ['}]},"', "}]}", '"logprobs":{"content":[{"logprob":-1}]},"', "ä", '\\"', "[{"]
)
TOKEN = st.fixed_dictionaries(
    {"token": TEXT, "logprob": st.floats(-50, 0), "bytes": st.none() | st.lists(st.integers(0, 255))},
    optional={"top_logprobs": st.just([]) | st.just([{"token": "}]}", "logprob": -1.0}])},
)
LOGPROBS = st.none() | st.fixed_dictionaries(
    {"content": st.lists(TOKEN, max_size=4)}, optional={"refusal": st.none()}
)
MEMBERS = {
    "index": st.just(0),
    "message": st.fixed_dictionaries({"content": TEXT}, optional={"logprobs": LOGPROBS}),
    "logprobs": LOGPROBS,
    "finish_reason": st.sampled_from(["stop", None]),
    "token_ids": st.lists(st.integers(0, 9), max_size=4),
}


@st.composite
def choice(draw: st.DrawFn) -> dict[str, Any]:
    """The members in any order."""
    made = draw(st.fixed_dictionaries(MEMBERS))
    return {name: made[name] for name in draw(st.permutations(list(made)))}


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Answers of one or two choices, with members that nobody expects before and after them."""
    choices = draw(st.lists(choice(), min_size=1, max_size=2))
    answer = {
        **draw(st.dictionaries(TEXT, LOGPROBS, max_size=1)),
        "choices": [{**made, "index": index} for index, made in enumerate(choices)],
        **draw(st.fixed_dictionaries({}, optional={"prompt_token_ids": st.just([1, 2]), "other": TEXT})),
    }
    return msgspec.json.encode(answer)


@given(answers(), st.booleans())
def test_both_ways_read_the_same(raw: bytes, ids: bool) -> None:
    wants, long = Wants(token_ids=ids), Capture()
    seen = read_answer(raw, wants, long).seen
    if (read := read_lifted(raw, wants)) is not None:
        assert read.capture.choices == long.choices
        assert read.capture == long
        assert encode(read.seen) == encode(seen)


def usual(
    logprobs: str = '{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]}]}',
) -> bytes:
    """As vLLM writes it."""
    return (
        '{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"a"},'
        f'"logprobs":{logprobs},"finish_reason":"stop","token_ids":[7]}}],"prompt_token_ids":[1]}}'
    ).encode()


def test_what_servers_usually_send_is_read_the_short_way() -> None:
    read = read_lifted(usual(), Wants())
    assert read is not None
    assert read.capture.choices[0].logprobs == [-0.5]
    assert read.capture.choices[0].token_ids == b"[7]"
    assert bytes(STAND_IN) not in encode(read.seen)
    assert msgspec.json.decode(encode(read.seen))["choices"][0]["logprobs"] is None


def test_a_token_may_look_like_the_end() -> None:
    read = read_lifted(usual('{"content":[{"token":"}]},","logprob":-1}]}'), Wants())
    assert read is not None
    assert read.capture.choices[0].logprobs == [-1]


def test_a_caller_who_asked_for_logprobs_gets_the_answer_as_it_came() -> None:
    assert read_lifted(usual(), Wants(logprobs=True)) is None


@pytest.mark.parametrize(
    "raw",
    [
        usual('{"content":[{"token":"a","logprob":NaN}]}'),
        usual('{"content":[{"token":"a","logprob":null}]}'),
        usual('{"content":[{"token":"a"}]}'),
        usual('{"content":[]}'),
        usual('{"content":null}'),
        usual("null"),
        usual().replace(b'"stop"', b'"stop","stop_reason":"}]},"'),
        usual('{"content":[{"token":"a","logprob":-1}]}').replace(b'"logprobs":', b'"logprobs" : '),
        usual('{"content":[{"token":"\xff","logprob":-1}]}').replace("\xff".encode(), b"\xff"),
        usual()[:-1],
        usual().replace(b'"logprobs"', b'"elsewhere":{"logprobs"').replace(b',"finish', b'},"finish'),
        b"",
    ],
)
def test_what_is_unusual_is_left_to_the_long_way(raw: bytes) -> None:
    assert read_lifted(raw, Wants()) is None


def test_an_answer_that_only_speaks_of_logprobs_is_not_cut() -> None:
    said = usual("null").replace(b'"content":"a"', b'"content":"\\"logprobs\\":{\\"content\\":[{}]},\\""')
    assert lift(said) is None
