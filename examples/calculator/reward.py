"""What a good answer is: the right number and nothing else."""

import leyden


@leyden.reward(name="calculator")
def reward(trajectory: leyden.Trajectory) -> float:
    """What Leyden calls for every finished rollout."""
    return score(str(trajectory.output), str(trajectory.task.reference))


def score(answer: str, reference: str) -> float:
    """1.0 when the whole answer is the reference number, else 0.0; text that is no number scores 0.0."""
    given, wanted = number(answer), number(reference)
    return 1.0 if given is not None and given == wanted else 0.0


def number(text: str) -> float | None:
    """Reads ` 1,234 `, `-5`, `7.0` or `12.`; anything around the number makes it no number."""
    plain = text.strip().replace(",", "").removesuffix(".")
    if not plain.removeprefix("-").replace(".", "", 1).isdecimal():
        return None
    return float(plain)
