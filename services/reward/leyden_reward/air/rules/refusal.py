"""The model declines to do what it was asked."""

import re

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each

_HEAD = 300
# "I cannot help but admire it" and "I can't help noticing" refuse nothing.
_SAYS_NO = re.compile(
    r"""\s*
    (?: (?:i['’]?m|i\ am)\ (?:(?:very|so|really|truly)\ )?sorry\b[^.!?\n]{0,60}?[,.]?\s*(?:but\ )?
      | sorry,?\s+(?:but\ )?
      | i\ apologi[sz]e,?\s+(?:but\ )?
      | unfortunately,?\s+
      | no,?\s+
      | i(?:['’]m|\ am)\ afraid\ (?:that\ )?
      | as\ an\ ai\b[^.!?\n]{0,60}?,?\s*
    )?
    (?: but\ no\s*(?:[.,!]|$)
      | i\ (?:must|(?:will\ )?have\ to)\ (?:\w+\ )?decline\s*(?:[.,;!]|$)
      | i(?:['’]m|\ am)?\ ?
        (?: can['’]?t | cannot | can\ not | (?:not\ able|unable)\ to | won['’]?t | will\ not
          | (?:must|have\ to)\ decline\ to | refuse\ to
        )\ (?:(?!help\b)\w+\ ){0,2}?
        (?: help(?!\ (?:but|it|myself|ourselves|(?!(?:any|every)thing|bring)\w+ing)\b)
          | assist|comply|fulfil|fulfill|engage|participate|support|discuss
          | do\ (?:that|this)(?!\ (?:in|until|before|yet|directly|at\ once)\b)
          | (?:answer|provide|create|generate|share|write|produce)\ (?:that|this|such|your)
          | (?:continue|go\ on)\ with\ (?:that|this|your) )\b
      | i\ do(?:n['’]t|\ not)\ feel\ comfortable\ (?:with|\w+ing)\b
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)


def refused(turn: Turn) -> float:
    """1 when the protocol says that the model refused, or a text without a call begins with refusing."""
    return float(turn.refused or (not turn.calls and bool(_SAYS_NO.match(turn.text[:_HEAD]))))


RULE = Rule(
    "refusal",
    each(refused),
    weight=-0.1,
    at_most=1,
    per="step",
    sees="an answer that is, or begins as, a refusal (English)",
    why="an agent is asked for what it should do; turn the rule off where refusing is the right answer",
)
