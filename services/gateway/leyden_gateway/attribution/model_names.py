"""What the model name of a call means: a policy, an agent role, or both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from leyden_gateway.attribution.named import agent_or_none
from leyden_schemas import parse_policy_ref


@dataclass(frozen=True, slots=True)
class Meaning:
    """The policy reference a model name stands for, and the role it gives, if it gives one."""

    policy: str
    agent: str | None = None


class ModelNames:
    """Aliases (``gpt-4o-mini`` → ``calculator/critic``) and the literal ``policy/role``.

    The literal is only read where its first part is a policy (``known`` says so), because other names have
    slashes too: ``openai/gpt-4o`` is no agent of ours.
    """

    def __init__(
        self, aliases: Mapping[str, str], known: Callable[[str], bool] = lambda _policy: False
    ) -> None:
        """Raises ``ValueError`` when an alias stands for no ``policy[@version|#alias][/agent]``."""
        self._aliases = {name: parse_meaning(target) for name, target in aliases.items()}
        self._known = known

    def meaning(self, model: str, scope: str | None = None) -> Meaning:
        """What ``model`` means; ``scope`` is the only policy the caller may use, if it is bound to one."""
        if (alias := self._aliases.get(model)) is not None:
            return alias
        ref, slash, role = model.rpartition("/")
        if not slash or (agent := agent_or_none(role)) is None or (policy := _policy(ref)) is None:
            return Meaning(model)
        bound = _policy(scope) if scope else None
        return Meaning(ref, agent) if policy == bound or self._known(policy) else Meaning(model)


def parse_meaning(text: str) -> Meaning:
    """``policy[@version|#alias][/agent]``. Raises ``ValueError`` with the accepted forms."""
    ref, slash, role = text.partition("/")
    parse_policy_ref(ref)
    if slash and agent_or_none(role) is None:
        raise ValueError(f"{text!r}: after '/' comes the name of an agent, for example calculator/critic")
    return Meaning(ref, role or None)


def _policy(ref: str) -> str | None:
    try:
        return parse_policy_ref(ref)[0]
    except ValueError:
        return None
