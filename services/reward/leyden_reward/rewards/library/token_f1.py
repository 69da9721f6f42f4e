"""How many words does the output share with the reference?

Source: the evaluation script of SQuAD (Rajpurkar et al., arXiv:1606.05250), and of SQuAD 2.0 for answers
without words (arXiv:1806.03822).
"""

import re
import string
from collections import Counter

from leyden_reward.rewards.library.texts import LONGEST_TEXT, TaskFault, reference_of, written
from leyden_schemas import Trajectory

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def token_f1(trajectory: Trajectory) -> float:
    """F1 of the output's words against the reference's; against the best of several in a list.

    Raises ``TaskFault`` when the task has no reference.
    """
    reference = reference_of(trajectory)
    wanted = reference if isinstance(reference, list) else [reference]
    if not wanted:
        raise TaskFault("token_f1: the task's list of references is empty")
    given = words(written(trajectory.output))
    return max(f1(given, words(written(one))) for one in wanted)


def words(text: str) -> list[str]:
    """Words in small letters, without punctuation and without the articles a, an, the."""
    return _ARTICLES.sub(" ", text[-LONGEST_TEXT:].lower().translate(_PUNCTUATION)).split()


def f1(given: list[str], wanted: list[str]) -> float:
    """2PR/(P+R) over words with their counts; without words on one side 1 if there are none on both."""
    if not given or not wanted:
        return float(given == wanted)
    shared = (Counter(given) & Counter(wanted)).total()
    return 2.0 * shared / (len(given) + len(wanted))
