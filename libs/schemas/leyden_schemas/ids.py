"""Identity: UUIDv7 for what the outside gives birth to, UUIDv5 of the cause for what is derived.

A replay derives the same ids again, which is how duplicates are recognised without coordination.
"""

from uuid import UUID

from uuid_utils.compat import uuid5, uuid7

_NAMESPACE = UUID("6ba1d3c8-5f0e-5d5b-9d2a-1e7de4c0ffee")


def new_id() -> UUID:
    """A fresh, time-ordered id for something without a cause inside Leyden."""
    return uuid7()


def cause_id(kind: str, *causes: object) -> UUID:
    """The id of the one ``kind`` of thing that these causes produce.

    Causes are joined with a unit separator, so ``("a", "bc")`` and ``("ab", "c")`` differ.
    """
    return uuid5(_NAMESPACE, "\x1f".join([kind, *map(str, causes)]))


def policy_at(policy: str, version: int) -> str:
    """``policy@version``, the unique name of one set of weights."""
    return f"{policy}@{version}"


def policy_ref(policy: str, alias: str) -> str:
    """``policy#alias``, a name that moves between versions."""
    return f"{policy}#{alias}"


def parse_policy_ref(ref: str) -> tuple[str, int | str | None]:
    """Split ``policy``, ``policy@7`` or ``policy#alias`` into the policy and a version, alias or None.

    Raises ``ValueError`` with the accepted forms when ``ref`` is none of them.
    """
    policy, at, version = ref.partition("@")
    if at:
        if policy and version.isdecimal():
            return policy, int(version)
        raise ValueError(f"policy {ref!r}: after '@' comes a version number, for example calculator@7")
    policy, hash_, alias = ref.partition("#")
    if not policy or (hash_ and not alias):
        raise ValueError(f"policy {ref!r}: write policy, policy@version or policy#alias")
    return policy, (alias or None)
