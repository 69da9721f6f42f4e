"""Between text and token ids: encoding, decoding as tokens arrive, and stop strings.

The ``tokenizers`` library reads ``tokenizer.json`` itself, so this service needs no transformers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Rust  # type: ignore[import-untyped]

from leyden_inference.architecture import read_json
from leyden_inference.errors import RequestRefused, UnsupportedModel

_UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that do not make a character yet."""


class Tokenizer:
    """The tokenizer of a model folder. ``longest`` is the characters of its longest token."""

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.json"
        try:
            self._rust = Rust.from_str(file.read_text())
        except OSError as error:
            raise UnsupportedModel(f"cannot read {file.name}: {error.strerror}") from None
        except Exception as error:  # noqa: BLE001 - the Rust library raises bare Exception
            raise UnsupportedModel(f"{file.name}: {error}") from None
        self._rust.no_truncation()
        self._rust.no_padding()
        self.config: dict[str, Any] = read_json(folder / "tokenizer_config.json")
        vocabulary: dict[str, int] = self._rust.get_vocab()
        self.size, self.longest = len(vocabulary), max(map(len, vocabulary), default=1)
        self._pieces: dict[int, str] = {}

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids; with ``special`` also those that the tokenizer puts around a text.

        Raises ``RequestRefused`` for what is no text: JSON can name half of a character.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestRefused(f"the prompt has half a character, a lone surrogate: {error}") from None
        ids: list[int] = self._rust.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of token ids."""
        text: str = self._rust.decode(ids, skip_special_tokens=skip_special)
        return text

    def piece(self, token: int) -> str:
        """The text of one token alone, as ``logprobs`` shows it."""
        if token not in self._pieces:
            self._pieces[token] = self.decode([token], skip_special=False)
        return self._pieces[token]

    def id_of(self, text: str) -> int | None:
        """The id of a token of the vocabulary."""
        token: int | None = self._rust.token_to_id(text)
        return token

    def special_tokens(self) -> dict[str, str]:
        """``bos_token``, ``eos_token`` and so on, as chat templates use them."""
        named = {name: value for name, value in self.config.items() if name.endswith("_token") and value}
        return {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in named.items()
            if isinstance(value, str | dict)
        }


class Detokenizer:
    """Text as tokens arrive, withheld while it ends inside a character.

    A few tokens before the new ones are decoded with them, because a tokenizer may write a token differently
    at the start of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = self._read = 0

    def push(self, ids: Sequence[int]) -> str:
        """The text that these tokens complete."""
        self._ids += ids
        return self._advance(final=False)

    def flush(self) -> str:
        """What is withheld, with a replacement character for bytes that never made one."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        if self._read == len(self._ids):
            return ""
        before = self._tokenizer.decode(self._ids[self._context : self._read])
        whole = self._tokenizer.decode(self._ids[self._context :])
        if whole.endswith(_UNFINISHED) and not final:
            return ""
        self._context, self._read = self._read, len(self._ids)
        return whole[len(before) :]


class StopScanner:
    """Lets text through up to the first stop string, withholding what could be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that may be shown now; nothing after a match."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.matched = min(found)
            shown, self._held = self._held[:at], ""
            return shown
        keep = max(overlap(self._held, stop) for stop in self._stops)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """What is withheld, when no more text will come."""
        shown, self._held = self._held, ""
        return shown


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``marker``, and not all of it."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
