"""Pieces that are alike take less once what they share was learnt, and all of them stay readable."""

import random
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.transcript.compression import Squeezer

DRAW = random.Random(3)
WORDS = ["".join(DRAW.choices("etaoinshrdlu", k=7)) for _ in range(300)]


def piece() -> bytes:
    return (" ".join(DRAW.choices(WORDS, k=60)) + '{"role":"assistant","content":').encode()


def learnt() -> tuple[Squeezer, list[bytes], list[bytes]]:
    """One that has learnt, what it was given, and what it made of that."""
    squeezer, pieces = Squeezer(dictionary_bytes=4096, level=3), [piece() for _ in range(200)]
    squeezed = [squeezer.squeeze(one) for one in pieces]
    assert squeezer.dictionary is not None
    return squeezer, pieces, squeezed


def test_what_was_squeezed_before_and_after_learning_is_readable() -> None:
    squeezer, pieces, squeezed = learnt()
    assert [squeezer.expand(one) for one in squeezed] == pieces
    assert len(squeezed[-1]) < 0.7 * len(squeezed[0])


def test_every_thread_reads_and_writes_what_the_others_do() -> None:
    squeezer, pieces, squeezed = learnt()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(squeezer.expand, squeezed * 5)) == pieces * 5
        again = list(threads.map(squeezer.squeeze, pieces * 5))
    assert [squeezer.expand(one) for one in again] == pieces * 5


def test_threads_that_learn_together_learn_once() -> None:
    squeezer, pieces = Squeezer(dictionary_bytes=4096, level=3), [piece() for _ in range(400)]
    with ThreadPoolExecutor(8) as threads:
        squeezed = list(threads.map(squeezer.squeeze, pieces))
    assert squeezer.dictionary is not None
    assert [squeezer.expand(one) for one in squeezed] == pieces


def test_what_cannot_be_learnt_from_is_compressed_as_before() -> None:
    squeezer = Squeezer(dictionary_bytes=256, level=1)
    pieces = [b"", b"x" * 5000, b"y"]
    assert [squeezer.expand(squeezer.squeeze(one)) for one in pieces] == pieces
    assert squeezer.dictionary is None


SHARED, _PIECES, _SQUEEZED = learnt()


@given(st.binary(max_size=4000))
def test_any_bytes_survive(raw: bytes) -> None:
    assert SHARED.expand(SHARED.squeeze(raw)) == raw
