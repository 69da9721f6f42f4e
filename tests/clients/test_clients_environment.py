"""Agents that name no server at all find the gateway by the variables that the runner sets."""

from uuid import uuid4

import pytest
from client_checks import Json, agreed
from client_programs import Programs
from client_stack import POLICY, Stack
from replica_script import Turn
from scripted_replica import ScriptedReplica

from leyden_runner.environment import agent_environment
from leyden_schemas import Protocol, RolloutAssigned, Task

pytestmark = pytest.mark.kafka

TALK = [{"role": "user", "content": "What is 3 * 4?"}]
ANSWER = Turn("[[ ## answer ## ]]\n12\n\n[[ ## completed ## ]]")
"""What DSPy asks for; to the others it is any text."""
CALLS: dict[str, tuple[str, Json, Protocol]] = {
    "use_openai": ("chat", {"model": POLICY, "messages": TALK}, Protocol.CHAT),
    "use_langchain": ("invoke", {"text": "3 * 4?"}, Protocol.CHAT),
    "use_autogen": ("run", {"task": "3 * 4?"}, Protocol.CHAT),
    "use_openai_agents": ("run_by_environment", {"text": "3 * 4?"}, Protocol.RESPONSES),
    "use_litellm": ("complete", {"messages": TALK}, Protocol.CHAT),
    "use_dspy": ("predict", {"question": "3 * 4?"}, Protocol.CHAT),
}


@pytest.mark.parametrize("who", CALLS)
def test_the_runners_environment_is_enough(
    stack: Stack, replica: ScriptedReplica, program: Programs, who: str
) -> None:
    replica.script(ANSWER)
    caller = stack.caller()
    assigned = RolloutAssigned(
        rollout_id=caller.claims.rollout_id,
        group_id=uuid4(),
        index=0,
        task=Task(task_id="t", input={"question": "3 * 4?"}, policy=POLICY),
    )
    environment = agent_environment(
        assigned, caller.claims.attempt, gateway_url=stack.url, token=caller.key, traceparent=None
    )
    case, arguments, protocol = CALLS[who]
    program(who).run_in(environment, case, api={}, **arguments)
    agreed(stack, caller, replica, ANSWER, protocol=protocol)


def test_anthropics_client_has_variables_of_its_own(
    stack: Stack, replica: ScriptedReplica, program: Programs
) -> None:
    caller = stack.caller()
    environment = {"ANTHROPIC_BASE_URL": caller.base, "ANTHROPIC_API_KEY": caller.key}
    asked = {"model": POLICY, "max_tokens": 16, "messages": TALK}
    program("use_anthropic").run_in(environment, "message", api={}, **asked)
    agreed(stack, caller, replica, replica.turns[0], protocol=Protocol.MESSAGES)
