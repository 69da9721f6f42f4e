"""Which server holds which version: decisions over what the registry announced. Pure.

A server has one set of base weights and any number of adapters over it, so what is placed are bases.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from leyden_inference.versions import Announced, older_or_equal
from leyden_schemas import ModelPublished, WeightsKind, policy_at


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one server should hold: base weights, and adapters over them, most important first."""

    base: ModelPublished
    adapters: tuple[ModelPublished, ...] = ()


def by_priority(
    announced: Announced, policy: str, first: Sequence[str], refused: Collection[int]
) -> list[int]:
    """The versions to serve, most important first: those of aliases in ``first``, the newest, the others'.

    In place of a refused one stands the newest published version that is older and not refused, if any.
    """
    published = announced.published.get(policy, {})
    aliases = announced.aliases.get(policy, {})
    named = [aliases[alias] for alias in first if alias in aliases]
    others = sorted(announced.wanted(policy), reverse=True)
    usable = [number for number in published if number not in refused]
    chosen: dict[int, None] = {}
    for number in [*named, *others]:
        stand_in = older_or_equal(number, usable) if number in published else None
        if stand_in is not None:
            chosen[stand_in] = None
    return list(chosen)


def base_of(message: ModelPublished) -> int:
    """The version whose weights a server needs for this one: its own, or an adapter's parent's."""
    if message.kind is WeightsKind.LORA:
        return -1 if message.parent is None else message.parent
    return message.version


def place(
    versions: Sequence[int],
    published: dict[int, ModelPublished],
    held: Sequence[str | None],
    max_adapters: int,
) -> list[Wanted | None]:
    """What each server should hold, given versions by priority and the names of the bases they hold now.

    Every base has a server while there are enough, the first ones one more of what is left over; servers keep
    what they have where that is among it.
    """
    bases = [base for base in dict.fromkeys(base_of(published[v]) for v in versions) if base in published]
    bases = bases[: len(held)]
    if not bases:
        return [None] * len(held)
    share, extra = divmod(len(held), len(bases))
    missing = {base: share + (index < extra) for index, base in enumerate(bases)}
    placed: list[int | None] = [None] * len(held)
    for index, name in enumerate(held):
        base = next((base for base in bases if policy_at(published[base].policy, base) == name), None)
        if base is not None and missing[base]:
            placed[index], missing[base] = base, missing[base] - 1
    rest = iter([base for base in bases for _ in range(missing[base])])
    chosen = [next(rest) if base is None else base for base in placed]
    return [Wanted(published[base], _over(base, versions, published)[:max_adapters]) for base in chosen]


def _over(
    base: int, versions: Sequence[int], published: dict[int, ModelPublished]
) -> tuple[ModelPublished, ...]:
    messages = (published[version] for version in versions)
    return tuple(m for m in messages if m.kind is WeightsKind.LORA and base_of(m) == base)
