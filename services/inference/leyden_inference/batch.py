"""The running batch of one version: sequences join, advance by a token and leave at token boundaries.

A running sequence occupies the cache row that is its index in ``running``; when one leaves, the last one
moves into its row, so that a decode step is one pass over rows without gaps. Nothing here knows of threads.
"""

import time
from collections import deque
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from leyden_inference import metrics
from leyden_inference.decoder import Decoder
from leyden_inference.prefix import PrefixCache
from leyden_inference.sampling import Draws, Sampled, Sampler, SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]

CHUNK = 512
"""Prompt tokens of one row computed in one pass, which bounds the memory that attention takes."""

_PREFILL_SECONDS = metrics.STEP_SECONDS.labels("prefill")
_DECODE_SECONDS = metrics.STEP_SECONDS.labels("decode")
_PREFILL_BATCH = metrics.STEP_BATCH.labels("prefill")
_DECODE_BATCH = metrics.STEP_BATCH.labels("decode")
_COMPUTED = metrics.PROMPTED.labels("computed")
_CACHED = metrics.PROMPTED.labels("cached")


@dataclass(slots=True, eq=False)
class Sequence:
    """One completion being sampled. ``abandoned`` may be set from any thread; it leaves at the next token."""

    prompt: list[int]
    params: SamplingParams
    index: int = 0
    draws: Draws = field(default_factory=lambda: Draws(None))
    stream: bool = False
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    finished: FinishReason | None = None
    abandoned: bool = False
    cached: int = 0
    submitted: float = field(default_factory=time.monotonic)

    @property
    def written(self) -> int:
        """Positions whose keys and values are in the cache: all but the token sampled last."""
        return len(self.prompt) + len(self.tokens) - 1

    @property
    def to_compute(self) -> int:
        """Prompt tokens that no cached prefix covers."""
        return len(self.prompt) - self.cached


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds on one version: rows, prompt tokens between two decode steps, tokens of cached prefixes."""

    rows: int = 64
    prefill_tokens: int = 2048
    prefix_tokens: int = 16_384


class Batch:
    """Waiting and running sequences of one decoder."""

    def __init__(self, decoder: Decoder, eos: frozenset[int], limits: BatchLimits, name: str = "") -> None:
        self.name = name
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._decoder, self._eos, self._limits = decoder, eos, limits
        self._cache = decoder.cache(limits.rows)
        self._prefixes = PrefixCache(self._cache, limits.prefix_tokens)
        self._sampler: Sampler | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def step(self) -> list[Sequence]:
        """Let waiting sequences join, sample one token for each running one; return those that changed.

        A sequence that joins is returned with its first token, or its first two.
        """
        changed = self._drop_abandoned()
        joined = self._admit()
        for group in similar_lengths(joined):
            self._prefill(group)
        changed += self._leave(joined)
        decoded = list(self.running)
        if decoded:
            self._decode()
            changed += self._leave(decoded)
        left = set(changed)
        return changed + [sequence for sequence in decoded if sequence not in left]

    def abandon_all(self) -> list[Sequence]:
        """Take every sequence out, finished by ``error``; return them."""
        left = [*self.waiting, *self.running]
        for sequence in left:
            sequence.finished = "error"
        self.waiting.clear()
        self.running.clear()
        return left

    def _drop_abandoned(self) -> list[Sequence]:
        dropped = [sequence for sequence in self.waiting if sequence.abandoned]
        for sequence in dropped:
            self.waiting.remove(sequence)
            sequence.finished = "abort"
        leaving = [sequence for sequence in self.running if sequence.abandoned]
        for sequence in leaving:
            sequence.finished = "abort"
        return dropped + self._leave(leaving)

    def _admit(self) -> list[Sequence]:
        """Move waiting sequences into free rows, up to the prefill bound; restore their known prefixes."""
        joined: list[Sequence] = []
        budget = self._limits.prefill_tokens
        while self.waiting and len(self.running) + len(joined) < self._limits.rows:
            sequence = self.waiting[0]
            sequence.cached = self._prefixes.known(sequence.prompt)
            if joined and sequence.to_compute > budget:
                break
            budget -= sequence.to_compute
            joined.append(self.waiting.popleft())
        joined.sort(key=lambda sequence: sequence.to_compute)
        for row, sequence in enumerate(joined, start=len(self.running)):
            sequence.cached = self._prefixes.restore(sequence.prompt, row)
            _CACHED.inc(sequence.cached)
            _COMPUTED.inc(sequence.to_compute)
        return joined

    def _prefill(self, group: list[Sequence]) -> None:
        """Compute the prompts of sequences in the rows after the running ones, sample, let them run."""
        began = time.perf_counter()
        first = len(self.running)
        last_hidden: list[Tensor] = [torch.empty(0)] * len(group)
        for begin in range(0, max(sequence.to_compute for sequence in group), CHUNK):
            chunks = [s.prompt[s.cached + begin : s.cached + begin + CHUNK] for s in group]
            hidden = self._forward_chunks(first, [s.cached + begin for s in group], chunks)
            for row, chunk in enumerate(chunks):
                if chunk:
                    last_hidden[row] = hidden[row, len(chunk) - 1]
        logits = self._decoder.logits(torch.stack(last_hidden))
        self._take(group, Sampler([s.params for s in group], [s.draws for s in group])(logits))
        self.running += group
        self._sampler = None
        for row, sequence in enumerate(group, start=first):
            self._prefixes.remember(sequence.prompt, row, len(sequence.prompt))
            metrics.FIRST_TOKEN_SECONDS.observe(time.monotonic() - sequence.submitted)
        _PREFILL_SECONDS.observe(time.perf_counter() - began)
        _PREFILL_BATCH.observe(len(group))

    def _forward_chunks(self, first: int, starts: list[int], chunks: list[list[int]]) -> Tensor:
        width = max(map(len, chunks))
        padding = [self._cache.padding] * width
        tokens = [chunk + [0] * (width - len(chunk)) for chunk in chunks]
        positions = [
            [*range(start, start + len(chunk)), *padding[len(chunk) :]]
            for start, chunk in zip(starts, chunks, strict=True)
        ]
        length = max(start + len(chunk) for start, chunk in zip(starts, chunks, strict=True) if chunk)
        return self._decoder.forward(
            self._cache, first, torch.tensor(tokens), torch.tensor(positions), length
        )

    def _decode(self) -> None:
        began = time.perf_counter()
        running = self.running
        if self._sampler is None:
            self._sampler = Sampler([s.params for s in running], [s.draws for s in running])
        positions = [sequence.written for sequence in running]
        hidden = self._decoder.forward(
            self._cache,
            0,
            torch.tensor([[sequence.tokens[-1]] for sequence in running]),
            torch.tensor(positions).unsqueeze(1),
            max(positions) + 1,
        )
        self._take(running, self._sampler(self._decoder.logits(hidden[:, 0])))
        _DECODE_SECONDS.observe(time.perf_counter() - began)
        _DECODE_BATCH.observe(len(running))

    def _take(self, sequences: ReadOnlySequence[Sequence], sampled: Sampled) -> None:
        """Append one token to each sequence and see which have finished."""
        for sequence, token, logprob in zip(sequences, sampled.tokens, sampled.logprobs, strict=True):
            sequence.tokens.append(token)
            sequence.logprobs.append(logprob)
            if logprob != logprob:
                sequence.finished = "error"
            elif token in self._eos and not sequence.params.ignore_eos:
                sequence.finished = "stop"
            elif len(sequence.tokens) >= sequence.params.max_tokens:
                sequence.finished = "length"
        if sampled.top is not None:
            for sequence, top in zip(sequences, sampled.top, strict=True):
                sequence.top.append(top)
        metrics.GENERATED.labels(self.name).inc(len(sequences))

    def _leave(self, candidates: ReadOnlySequence[Sequence]) -> list[Sequence]:
        """Take the finished ones among ``candidates`` out of their rows; return them."""
        finished = {sequence for sequence in candidates if sequence.finished}
        if not finished:
            return []
        left = []
        for row in range(len(self.running) - 1, -1, -1):
            sequence = self.running[row]
            if sequence in finished:
                left.append(sequence)
                self._free(row)
        return left

    def _free(self, row: int) -> None:
        sequence, last = self.running[row], self.running[-1]
        if sequence.finished in ("stop", "length"):
            self._prefixes.remember(sequence.prompt + sequence.tokens, row, sequence.written)
        if last is not sequence:
            self._cache.move(len(self.running) - 1, row, last.written)
            self.running[row] = last
        self.running.pop()
        self._sampler = None


def similar_lengths(joined: ReadOnlySequence[Sequence]) -> list[list[Sequence]]:
    """Split sequences, shortest first, where padding to one length would compute much more than is needed."""
    groups: list[list[Sequence]] = []
    for sequence in joined:
        if groups and sequence.to_compute <= 1.5 * groups[-1][0].to_compute + 16:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    return groups
