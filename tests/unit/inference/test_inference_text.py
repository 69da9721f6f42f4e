"""Text as it arrives: characters cut across tokens, stop strings cut across updates."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_inference.errors import UnsupportedModel
from leyden_inference.text import Detokenizer, StopScanner, Tokenizer, overlap

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"
TOKENIZER = Tokenizer(SEED)


@given(st.text(max_size=30), st.data())
def test_text_that_arrives_in_parts_is_the_whole_text(text: str, data: st.DataObject) -> None:
    ids = TOKENIZER.encode(text)
    detokenizer, shown = Detokenizer(TOKENIZER), ""
    while ids:
        count = data.draw(st.integers(1, len(ids)))
        shown += detokenizer.push(ids[:count])
        ids = ids[count:]
    assert shown + detokenizer.flush() == TOKENIZER.decode(TOKENIZER.encode(text))


def test_half_a_character_is_withheld() -> None:
    ids = TOKENIZER.encode("é")
    assert len(ids) == 2
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.push(ids[:1]) == ""
    assert detokenizer.push(ids[1:]) == "é"


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.push(TOKENIZER.encode("é")[:1])
    assert detokenizer.flush() == "\ufffd"


def test_special_tokens_are_hidden_from_text_but_named_in_pieces() -> None:
    end = TOKENIZER.id_of("<|im_end|>")
    assert end is not None
    assert TOKENIZER.decode([end]) == ""
    assert TOKENIZER.piece(end) == "<|im_end|>"
    assert TOKENIZER.special_tokens()["eos_token"] == "<|im_end|>"


def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


def test_a_stop_string_across_updates_ends_the_text_before_it() -> None:
    scanner = StopScanner(["STOP"])
    assert [scanner.push(part) for part in ("one S", "T", "O", "Px two")] == ["one ", "", "", ""]
    assert scanner.matched == "STOP"
    assert scanner.flush() == ""


def test_a_false_start_of_a_stop_string_is_shown_after_all() -> None:
    scanner = StopScanner(["STOP", ""])
    shown = scanner.push("a ST") + scanner.push("art ") + scanner.push("S") + scanner.flush()
    assert shown == "a STart S"


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.data())
def test_any_cut_of_the_text_shows_what_stands_before_the_first_stop(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    scanner, shown, rest = StopScanner(stops), "", text
    while rest and scanner.matched is None:
        count = data.draw(st.integers(1, len(rest)))
        shown += scanner.push(rest[:count])
        rest = rest[count:]
    shown += scanner.flush()
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
    if scanner.matched is None:
        assert shown == text
    else:
        # A longer stop that begins earlier may still be incomplete when a shorter one completes.
        assert shown == text[: len(shown)]
        assert len(shown) >= first
        assert text[len(shown) :].startswith(scanner.matched)


def test_overlap_is_the_longest_beginning_at_the_end() -> None:
    assert overlap("xx<too", "<tool_call>") == 4
    assert overlap("aab", "aba") == 2
    assert overlap("abc", "abc") == 0
    assert overlap("", "abc") == 0
