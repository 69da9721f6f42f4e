"""The user's next message says that the answer was wrong."""

import re

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each

_HEAD = 300
_CONTENT = r"""(?!\W*(?: thank|problem|worries|need|nothing|not\ at\ all|go\ ahead
  | (?:i|we|you)(?:['’]?m|['’]?re|\ am|\ are)\ (?:good|fine|done|right|set)
  | (?:(?:that|it)(?:['’]?s|\ is)|all|(?:it|that|everything)\ (?:looks|sounds|is)|(?:looks|sounds))
    \ (?:all|it|fine|ok|okay|good|great|perfect|right|correct|well|set|done)\b))"""
"""What goes on like this says no to an offer, not to the answer."""

_CORRECTS = re.compile(
    rf"""\s*
    (?: (?:no[,.!:;]|nope\b){_CONTENT}
      | no\ (?:it|that|this|they|you)\ (?:(?:is|are|was|were|do|does|did|can)(?:n['’]t|\ not)|cannot)\b
      | (?:wrong|incorrect)
        (?:\s*(?:[.,!:;?]|$)|\ \w+\s*(?:[.,!;?]|$)|\ (?:it|this|that|the|you|i|should|again|still)\b)
      | (?:that|this|it)(?:['’]s|\ is)\ (?:still\ )?
        (?:(?:the\ )?wrong|incorrect|not\ (?:right|correct|true|working(?!\ (?:hour|day))|what|how))
      | (?:that|this|it)\ isn['’]t\ (?:right|correct|true|working(?!\ (?:hour|day))|what|how)\b
      | (?:(?:that|this|it)\ )?(?:still\ )?(?:did|does)(?:n['’]t|\ not)\ work\b
      | (?:that|this|it)\ still\ (?:fails|crashes)\b
      | (?:the|your)\ (?:answer|result|output|code|response|solution)\ (?:is|was)\ (?:still\ )?
        (?:wrong|incorrect|not\ (?:right|correct))\b
      | still\ (?:wrong|broken|not)\b
      | not\ correct\b
      | not\ what\ i\b
      | you(?:['’]re|\ are)\ (?:wrong|mistaken)
      | you\ (?:misunderstood|misread|forgot|missed|ignored|got\ (?:it|that|this)\ wrong
        |made\ an?\ (?:\w+\ )?(?:mistake|error))\b
      | i\ did(?:n['’]t|\ not)\ (?:ask|want|mean|say)\b
      | (?:actually,?\ )?i\ (?:said(?!\ (?:thank|please|ok|yes))|meant(?!\ to\ (?:thank|say\ thank))
        |asked\ for|asked\ you|already\ (?:said|told|asked))\b
      | (?:please\ )?(?:try\ again(?!\ (?:later|tomorrow))|redo|correct\ this|fix\ (?:this|that))\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def corrected(turn: Turn) -> float:
    """1 when the words that follow an answer begin with a correction."""
    return float(
        not turn.calls and bool(turn.reaction) and bool(_CORRECTS.match((turn.reaction or "")[:_HEAD]))
    )


RULE = Rule(
    "user_correction",
    each(corrected),
    weight=-0.1,
    at_most=2,
    per="step",
    sees="an answer after which the user's next message begins with a correction (English)",
    why="the one who asked says so; it is the plainest feedback that production traffic has",
)
