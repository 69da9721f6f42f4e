"""One step as a compressed piece of memory, and back, bit for bit.

Token ids are 32-bit numbers, stored byte by byte: all lowest bytes, then all second ones, and so on, because
the upper ones hardly differ and compress to little. Log-probabilities are single precision when that is all
they have, as it is for inference servers, else double; they do not compress. JSON stays JSON. Ids and JSON
are compressed apart: a code that suits both suits neither, and costs a tenth.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple

import msgspec
from pydantic_core import from_json, to_json

from leyden_platform.transcript.compression import IDS, TEXTS
from leyden_schemas import JsonObject, Step
from leyden_schemas.whole import LAZY

_HEAD = struct.Struct("<IIIcIIIII")
"""Numbers of prompt ids, sampled ids and log-probabilities, the kind of these, bytes of the compressed ids,
and bytes of four texts."""
_APART = {"base", *LAZY}


class NotIds(ValueError):
    """A prompt or an answer holds something else than 32-bit token ids."""


class Unpacked(NamedTuple):
    """A step's parts. Texts are JSON; ``response`` is empty if there is none."""

    prompt: "array[int]"
    sampled: "array[int]"
    logprobs: "array[float]"
    light: bytes
    """All fields but ``base``, the lazy ones and those that are as by default."""
    base: bytes
    request: bytes
    response: bytes

    def wire(self) -> bytes:
        """``base`` and the lazy fields as members of a JSON object."""
        return b'"base":%b,"prompt_token_ids":%b,"token_ids":%b,"logprobs":%b,"request":%b,"response":%b' % (
            self.base,
            msgspec.json.encode(self.prompt.tolist()),
            msgspec.json.encode(self.sampled.tolist()),
            _written(self.logprobs),
            self.request,
            self.response or b"null",
        )


def pack(step: Step) -> bytes:
    """The step, compressed. Raises ``NotIds``."""
    prompt, sampled = _ids(step.prompt_token_ids), _ids(step.token_ids)
    logprobs = _floats(step.logprobs)
    light = step.model_dump_json(exclude=_APART, exclude_defaults=True).encode()
    base = step.base.model_dump_json().encode() if step.base else b"null"
    request = _json(step.request)
    response = b"" if step.response is None else _json(step.response)
    texts = (light, base, request, response)
    ids = IDS.squeeze(_planes(prompt) + _planes(sampled))
    numbers = (len(prompt), len(sampled), len(logprobs), logprobs.typecode.encode(), len(ids))
    head = _HEAD.pack(*numbers, *map(len, texts))
    return b"".join((head, ids, logprobs.tobytes(), TEXTS.squeeze(b"".join(texts))))


def unpack(packed: bytes) -> Unpacked:
    """What was packed."""
    prompt, _sampled, floats, kind, packed_ids, *sizes = _HEAD.unpack_from(packed)
    logprobs = array(kind.decode())
    ids_end = _HEAD.size + packed_ids
    texts_start = ids_end + floats * logprobs.itemsize
    ids, texts = IDS.expand(packed[_HEAD.size : ids_end]), TEXTS.expand(packed[texts_start:])
    logprobs.frombytes(packed[ids_end:texts_start])
    return Unpacked(
        _from_planes(ids[: 4 * prompt]), _from_planes(ids[4 * prompt :]), logprobs, *_cut(texts, sizes)
    )


def value(text: bytes) -> Any:
    """What a JSON text says."""
    return from_json(text)


def _cut(raw: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield raw[at : at + size]
        at += size


def _ids(ids: Sequence[int]) -> "array[int]":
    try:
        return array("I", ids)
    except (OverflowError, TypeError) as error:
        raise NotIds(str(error)) from None


def _floats(values: list[float]) -> "array[float]":
    single = array("f", values)
    return single if single.tolist() == values else array("d", values)


def _planes(ids: "array[int]") -> bytes:
    raw = ids.tobytes()
    return raw[0::4] + raw[1::4] + raw[2::4] + raw[3::4]


def _from_planes(planes: bytes) -> "array[int]":
    raw, size = bytearray(len(planes)), len(planes) // 4
    for place in range(4):
        raw[place::4] = planes[place * size : (place + 1) * size]
    ids = array("I")
    ids.frombytes(raw)
    return ids


def _written(values: "array[float]") -> bytes:
    if isfinite(sum(values)):
        return msgspec.json.encode(values.tolist())
    return to_json(values.tolist(), inf_nan_mode="strings")


def _json(fields: JsonObject) -> bytes:
    return to_json(fields, inf_nan_mode="strings")
