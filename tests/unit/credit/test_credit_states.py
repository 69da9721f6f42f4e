"""When two steps saw the same state."""

from typing import Any

import pytest

from leyden_credit.states import observation, state_of
from leyden_platform.testing.rollouts import answer, call, make_step, tool_message
from leyden_schemas import JsonObject, RewardTerm

SYSTEM: JsonObject = {"role": "system", "content": "You play a game."}
ROOM: JsonObject = {"role": "user", "content": "You are in a hall."}


def spoken(content: str | None = None, *calls: JsonObject) -> JsonObject:
    """The model's message, as the agent sends it back."""
    message: JsonObject = answer(content, calls)["choices"][0]["message"]
    return message


def chat(*messages: JsonObject, agent: str = "main") -> bytes | None:
    """The state of a chat completion."""
    return state_of(make_step(request={"model": "m", "messages": list(messages)}, agent=agent))


def named(text: str, *messages: JsonObject) -> bytes | None:
    """The state that a signal names."""
    signal = RewardTerm(name="signal.state", value=0.0, weight=0.0, feedback=text)
    return state_of(make_step(request={"messages": list(messages)}, terms=[signal]))


def test_the_first_turn_is_one_state_for_all_who_got_the_same_prompt() -> None:
    assert chat(SYSTEM, ROOM) == chat(SYSTEM, ROOM) != chat(ROOM)


def test_two_ways_to_the_same_observation_meet() -> None:
    north, south = spoken("I go north."), spoken("I go south.")
    assert chat(SYSTEM, ROOM, north, ROOM) == chat(SYSTEM, ROOM, south, north, ROOM)
    assert chat(SYSTEM, ROOM, north, ROOM) != chat(SYSTEM, ROOM)


def test_call_ids_do_not_tell_states_apart_and_results_do() -> None:
    def after(result: str, call_id: str) -> bytes | None:
        return chat(SYSTEM, ROOM, spoken(None, call(call_id=call_id)), tool_message(result, call_id))

    assert after("4", "c1") == after("4", "c2") != after("5", "c1")


def test_all_results_since_the_models_last_message_count() -> None:
    asked = spoken(None, call(call_id="c1"), call(call_id="c2"))
    assert chat(ROOM, asked, tool_message("4"), tool_message("5")) != chat(ROOM, asked, tool_message("5"))


def test_agents_do_not_share_states() -> None:
    assert chat(ROOM, agent="white") != chat(ROOM, agent="black")


def test_a_signal_names_the_state_instead() -> None:
    assert named("hall", ROOM) == named("hall", SYSTEM, ROOM) != named("attic", ROOM)
    assert named("hall") != chat({"role": "user", "content": "hall"})
    assert named("", ROOM) == chat(ROOM)


@pytest.mark.parametrize(
    ("request_", "seen"),
    [
        ({}, None),
        ({"messages": []}, None),
        ({"messages": [ROOM, spoken("I wait.")]}, []),
        ({"prompt": "Once upon"}, "Once upon"),
        ({"prompt": [1, 2, 3]}, [1, 2, 3]),
        ({"input": "hello"}, "hello"),
        (
            {
                "input": [
                    ROOM,
                    {"type": "reasoning", "id": "r1", "summary": []},
                    {"type": "function_call", "id": "f1", "call_id": "c1", "name": "add", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c1", "output": "4"},
                ]
            },
            [{"type": "function_call_output", "output": "4"}],
        ),
        (
            {
                "system": "You play.",
                "messages": [
                    ROOM,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look"}]},
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "dark"}],
                    },
                ],
            },
            [{"role": "user", "content": [{"type": "tool_result", "content": "dark"}]}],
        ),
        ({"messages": "nonsense"}, "nonsense"),
        ({"messages": [7, None]}, [7, None]),
    ],
)
def test_observations_of_every_protocol(request_: JsonObject, seen: Any) -> None:
    assert observation(request_) == seen
    assert (state_of(make_step(request=request_)) is None) is (not seen)
