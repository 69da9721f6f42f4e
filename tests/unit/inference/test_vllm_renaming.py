"""Names in answers, wherever the bytes are cut."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from leyden_inference.vllm.renaming import Renamer


def renamed(pieces: list[bytes]) -> bytes:
    renamer = Renamer("leyden-1", "calculator@7")
    return b"".join(renamer.feed(piece) for piece in pieces) + renamer.flush()


def answer(model: str, content: str) -> bytes:
    body = {"id": "x", "model": model, "choices": [{"text": content}]}
    return json.dumps(body, separators=(",", ":")).encode()


@given(st.text(), st.lists(st.integers(0, 200), max_size=6))
def test_only_the_key_is_replaced_however_the_bytes_are_cut(content: str, cuts: list[int]) -> None:
    said = content + '"model":"leyden-1"'
    whole = answer("leyden-1", said)
    places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    pieces = [whole[a:b] for a, b in itertools.pairwise(places)]
    assert renamed(pieces) == answer("calculator@7", said)


def test_nothing_is_held_back_at_the_end_of_an_event() -> None:
    renamer = Renamer("leyden-1", "calculator@7")
    event = b'data: {"model":"leyden-1"}\n\n'
    assert renamer.feed(event) == b'data: {"model":"calculator@7"}\n\n'
    assert renamer.feed(b'data: {"mod') == b"data: {"
    assert renamer.flush() == b'"mod'


def test_an_adapter_keeps_its_name() -> None:
    renamer = Renamer("calculator@7", "calculator@7")
    assert renamer.feed(b'{"model":"calculator@7') == b'{"model":"calculator@7'
