"""Policies that try to live on intermediate rewards: none beats an honest success, and learning finds none.

Agents here play with a real conversation, its tool ``add`` and its user; only what they choose is made up.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyden_credit.estimators import Choice, chosen
from leyden_credit.rollout import ScoredRollout, scored
from leyden_platform.testing.rollouts import make_trajectory
from leyden_platform.testing.talks import Talk, adding
from leyden_reward.air.rules import tool_call_succeeded
from leyden_reward.air.shaping import Shaping
from leyden_schemas import Step

CAP = 0.25
SHAPING = Shaping(cap=CAP)
FIND_A_CALL = 0.05
"""What the first working call is worth, where there is no outcome."""

MOVES = ["new", "same", "fail", "fail otherwise", "parallel", "mixed", "malformed", "unknown", "violate"]
MOVES += ["say", "repeat", "nothing", "ask"]


class Player:
    """Makes one step of a conversation for each move."""

    def __init__(self) -> None:
        self._talk, self._fresh = Talk(), 0

    def play(self, move: str) -> None:
        """One step."""
        talk, n = self._talk, self._next()
        match move:
            case "new":
                talk.calls(adding(n, n), results=[str(2 * n)])
            case "same":
                talk.calls(adding(0, 0), results=["0"])
            case "fail":
                talk.calls(adding(n, 1), results=["error: overflow"])
            case "fail otherwise":
                talk.calls(adding(n, 1), results=[f"error: overflow at {n}"])
            case "parallel":
                talk.calls(*(adding(n, k) for k in range(5)), results=[str(n + k) for k in range(5)])
            case "mixed":
                talk.calls(*(adding(n, k) for k in range(5)), results=["error: no", "1", "2", "3", "4"])
            case "malformed":
                talk.calls('{"a": ', results=["error: no JSON"])
            case "unknown":
                talk.calls("{}", name="reward_me", results=["ok"])
            case "violate":
                talk.calls(adding(n, "x"), results=["ok"])
            case "say":
                talk.says(f"Thought {n}.", reply="Go on.")
            case "repeat":
                talk.says("Let me think.", reply="Go on.")
            case "nothing":
                talk.says("", reply="Go on.")
            case "ask":
                talk.says(f"Is it {n}?", reply="You tell me.")

    def answer(self) -> list[Step]:
        """The steps, the last of which answers."""
        self._talk.says("It is 4.")
        return self._talk.steps

    def _next(self) -> int:
        self._fresh += 1
        return self._fresh


def steps_of(moves: Sequence[str]) -> list[Step]:
    player = Player()
    for move in moves:
        player.play(move)
    return player.answer()


def total(moves: Sequence[str], outcome: float, shaping: Shaping = SHAPING) -> float:
    """Final reward and intermediate ones."""
    shaped = shaping.shape(steps_of(moves), final=outcome).steps
    return outcome + math.fsum(step.reward for step in shaped)


HONEST = total(["new"], 1.0)
FARMERS = {
    "spams successful calls": ["new"] * 30,
    "spams calls in parallel": ["parallel"] * 30,
    "repeats one successful call": ["same"] * 30,
    "alternates arguments": ["new", "same"] * 15,
    "provokes an error and recovers": ["fail", "new"],
    "provokes errors and recovers, again and again": ["fail", "new"] * 15,
    "hides errors among successes": ["mixed"] * 10,
    "fails in parallel, recovers in one": ["mixed", "parallel"] * 5,
    "goes in circles": ["new", "same", "say", "same", "say"] * 5,
    "splits its work into many steps": ["say", "new"] * 20,
    "calls what always works": ["unknown"] * 10,
    "talks": ["say"] * 30,
}


def test_an_honest_success_is_worth_its_outcome() -> None:
    assert HONEST == 1.0
    assert total([], 1.0) == 1.0


@pytest.mark.parametrize("moves", FARMERS.values(), ids=FARMERS)
@pytest.mark.parametrize("outcome", [0.0, 0.5, 0.9, 1.0])
def test_no_farmer_beats_an_honest_success_or_gains_by_farming_on(moves: list[str], outcome: float) -> None:
    assert total(moves, outcome) <= HONEST
    assert total(moves, outcome) <= total(["new"], outcome) + 1e-12
    assert total(moves * 3, outcome) <= total(moves, outcome) + 1e-12


@pytest.mark.parametrize("moves", FARMERS.values(), ids=FARMERS)
def test_a_wrong_answer_never_beats_a_right_one_however_clumsy(moves: list[str]) -> None:
    clumsy = ["malformed", "nothing", "unknown", "fail", "same", "same"] * 10
    assert total(clumsy, 1.0) >= 1.0 - CAP - 1e-12
    assert total(moves, 0.0) < total(clumsy, 1.0)


sequences = st.lists(st.sampled_from(MOVES), max_size=14)


@given(sequences, st.floats(0.0, 1.0))
def test_no_sequence_of_moves_beats_an_honest_success(moves: list[str], outcome: float) -> None:
    assert total(moves, outcome) <= HONEST + 1e-12


@given(sequences)
def test_without_an_outcome_all_that_can_be_won_is_the_first_working_call(moves: list[str]) -> None:
    assert -CAP - 1e-12 <= total(moves, 0.0) <= FIND_A_CALL + 1e-12


ERROR, STANDSTILL = 0.05, 0.1
"""What an error costs at most, and what a move that brings something new takes from a run of those that do
not: it parts the run, and the first two steps of either part are free."""


@given(sequences, st.integers(0, 14), st.sampled_from(MOVES))
@example(["fail"] * 4, 2, "new")
def test_one_more_move_anywhere_gains_no_more_than_a_first_call_and_what_was_lost_before(
    moves: list[str], place: int, extra: str
) -> None:
    at = min(place, len(moves))
    before, after = total(moves, 0.0), total([*moves[:at], extra, *moves[at:]], 0.0)
    assert after <= before + FIND_A_CALL + ERROR + STANDSTILL + 1e-12
    assert after <= FIND_A_CALL + 1e-12


def test_the_best_of_all_short_sequences_is_the_honest_one() -> None:
    sequences = [moves for length in range(3) for moves in product(MOVES, repeat=length)]
    success = {moves: total(moves, 1.0) for moves in sequences}
    assert max(success.values()) == success[()] == success["new",] == 1.0
    failure = {moves: total(moves, 0.0) for moves in sequences}
    assert max(failure.values()) == failure["new",] == pytest.approx(FIND_A_CALL)


def test_the_price_of_bad_calls_does_not_depend_on_how_they_are_spread() -> None:
    apart = ["fail otherwise", *["new"] * 4]
    assert total(["mixed"], 0.0) == pytest.approx(total(apart, 0.0) - 0.03)  # only there it recovers
    assert total(["mixed"] * 3, 0.0) == pytest.approx(FIND_A_CALL - 0.15 + 0.03)


TURNS = 8
"""After so many the agent has to answer."""
CHOICES = ("answer", "new", "same", "mixed", "fail", "ask")
RIGHT_WITH_CALL, RIGHT_WITHOUT = 0.9, 0.2
"""How likely an answer is right after a working call, and as a guess."""
Table = dict[tuple[int, bool], list[float]]
Played = list[tuple[tuple[int, bool], int]]


class Learner:
    """A softmax over moves for every turn, with and without a working call so far; plain policy gradient."""

    def __init__(self, estimator: Choice, shaping: Shaping, *, seed: int) -> None:
        self._estimator, self._shaping = chosen(estimator), shaping
        self._random = random.Random(seed)
        self._logits: Table = {
            (turn, has): [0.0] * len(CHOICES) for turn in range(TURNS) for has in (False, True)
        }

    def train(self, waves: int, *, group: int = 8, rate: float = 0.5) -> None:
        """Learn from so many groups."""
        for _ in range(waves):
            played = [self.play() for _ in range(group)]
            advantages = self._estimator([rollout for _, rollout in played])
            for (choices, _), along in zip(played, advantages, strict=True):
                for (state, choice), advantage in zip(choices, along, strict=True):
                    self._reinforce(state, choice, rate * advantage / group)

    def play(self) -> tuple[Played, ScoredRollout]:
        """One rollout, scored as the reward service does."""
        player, called = Player(), False
        played: Played = []
        while not played or CHOICES[played[-1][1]] != "answer":
            state = (len(played), called)
            choice = 0 if len(played) == TURNS - 1 else self._draw(state)
            played.append((state, choice))
            called |= CHOICES[choice] in ("new", "same", "mixed")
            player.play(CHOICES[choice])
        right = self._random.random() < (RIGHT_WITH_CALL if called else RIGHT_WITHOUT)
        shaped = self._shaping.shape(player.answer(), final=float(right)).steps
        trajectory = make_trajectory(float(right), shaped)
        return played, scored(trajectory, [None] * len(shaped), air=1.0)

    def average(self, rollouts: int = 200) -> tuple[float, float]:
        """How often it is right now, and how many moves it takes before it answers."""
        played = [self.play() for _ in range(rollouts)]
        right = sum(rollout.final for _, rollout in played) / rollouts
        return right, sum(len(choices) - 1 for choices, _ in played) / rollouts

    def _draw(self, state: tuple[int, bool]) -> int:
        return self._random.choices(range(len(CHOICES)), self._probabilities(state))[0]

    def _probabilities(self, state: tuple[int, bool]) -> list[float]:
        weights = [math.exp(logit) for logit in self._logits[state]]
        return [weight / sum(weights) for weight in weights]

    def _reinforce(self, state: tuple[int, bool], choice: int, step: float) -> None:
        probabilities = self._probabilities(state)
        for k, probability in enumerate(probabilities):
            self._logits[state][k] += step * ((k == choice) - probability)


NAIVE = Shaping(
    cap=1e9,
    goal=1e9,
    rules=[replace(tool_call_succeeded.RULE, weight=0.3, at_most=1e9)],
)
"""What one does first: every step with a successful call pays."""
ESTIMATORS: list[Choice] = ["grpo", "return_to_go"]
WAVES = 100


def learnt(estimator: Choice, shaping: Shaping) -> tuple[float, float]:
    """How often a trained learner is right, and its moves before an answer."""
    learner = Learner(estimator, shaping, seed=1)
    learner.train(WAVES)
    return learner.average()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_learning_finds_the_honest_way_and_no_farm(estimator: Choice) -> None:
    right_before, _ = Learner(estimator, SHAPING, seed=1).average()
    right, moves = learnt(estimator, SHAPING)
    _, moves_without = learnt(estimator, Shaping(cap=0.0))
    assert right > max(right_before + 0.05, 0.8)
    assert moves < moves_without  # what the rules blame is left out; nothing is added for their praise


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_learner_farms_where_every_call_pays(estimator: Choice) -> None:
    _, moves = learnt(estimator, NAIVE)
    assert moves > 5.0
