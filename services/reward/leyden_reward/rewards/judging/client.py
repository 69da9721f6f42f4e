"""Asks the judge: cached, budgeted, a few calls at once, tried again, and never longer than the deadline.

Equal questions that are asked at the same time are one call. Whatever goes wrong is a ``JudgeFailed`` with
the reason that excludes the rollout.
"""

import asyncio
import contextlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import stamina

from leyden_reward import metrics
from leyden_reward.rewards.judging.answers import Malformed
from leyden_reward.rewards.judging.budget import Budget, BudgetSpent
from leyden_reward.rewards.judging.cache import VerdictCache
from leyden_reward.rewards.judging.prompts import SYSTEM, Question
from leyden_reward.rewards.judging.settings import JudgeSettings
from leyden_reward.rewards.verdict import Reason

T = TypeVar("T")
ROLE = "judge"
"""The agent role that the judge's calls are recorded under; a user's agent may have it too."""
_ABOUT = re.compile(r"(?:judge|ruler)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Sessions that the judge's calls are recorded under: by the rollout, or group, that they are about."""
_MOST_RETRY_AFTER_S = 30.0
_REMEMBERED = 10_000


def is_own_call(agent: str, session: str | None) -> bool:
    """Whether a recorded call was made here."""
    return agent == ROLE and session is not None and _ABOUT.fullmatch(session) is not None


class JudgeFailed(Exception):
    """There is no verdict; ``reason`` excludes the rollout, the text says what a person should look at."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Unavailable(Exception):
    """The server did not answer, or not now. ``after_s`` is when it said to try again."""

    def __init__(self, text: str, after_s: float | None = None) -> None:
        super().__init__(text)
        self.after_s = after_s


class JudgeClient:
    """A judge behind an OpenAI-compatible server. A ``Component``; ``ask`` works before ``run``."""

    def __init__(self, settings: JudgeSettings, *, first_wait_s: float = 0.5) -> None:
        self.name = "judge"
        self._settings, self._first_wait_s = settings, first_wait_s
        self._cache = VerdictCache(settings.cache_file, settings.cache_entries)
        self._budget = Budget(settings.calls_per_hour, settings.tokens_per_hour)
        self._room = asyncio.Semaphore(settings.concurrency)
        self._asking: dict[bytes, asyncio.Task[str]] = {}
        self._calls: OrderedDict[str, int] = OrderedDict()
        self._http: httpx.AsyncClient | None = None

    @property
    def settings(self) -> JudgeSettings:
        """What it was told."""
        return self._settings

    def not_ready(self) -> str | None:
        """Always ready: a judge that is away excludes rollouts that need it, and no others."""
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Keep connections until ``stop``."""
        await stop.wait()
        await self.close()

    async def close(self) -> None:
        """Give up what is asked, close connections and the cache."""
        for task in self._asking.values():
            task.cancel()
        if self._http is not None:
            await self._http.aclose()
            self._http = None
        self._cache.close()

    async def ask(self, question: Question, parse: Callable[[str], T], *, about: str) -> T:
        """What ``parse`` makes of the answer; ``about`` is the rollout or group that pays.

        ``parse`` raises ``Malformed`` for what is no verdict; such an answer is asked for again and not kept.
        Raises ``JudgeFailed``.
        """
        if (known := self._cache.get(question.digest)) is not None:
            with contextlib.suppress(Malformed):  # kept by another version of this, and no verdict now
                verdict = parse(known)
                metrics.JUDGE_CACHED.inc()
                return verdict
        task = self._asking.get(question.digest)
        if task is None:
            task = asyncio.create_task(self._answer(question, parse, about))
            self._asking[question.digest] = task
            task.add_done_callback(lambda _done: self._asking.pop(question.digest, None))
        try:
            return parse(await asyncio.shield(task))
        except JudgeFailed as error:
            metrics.JUDGE_FAILED.labels(error.reason).inc()
            raise

    async def _answer(self, question: Question, parse: Callable[[str], T], about: str) -> str:
        url = self._settings.url
        if url is None:
            raise JudgeFailed(Reason.JUDGE_UNAVAILABLE, "there is no judge: set LEYDEN_REWARD_JUDGE_URL")
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                return await self._tried(question, parse, about, url)
        except TimeoutError:
            text = f"{url} gave no verdict within {self._settings.deadline_s:g} s"
            raise JudgeFailed(Reason.JUDGE_UNAVAILABLE, text) from None
        except BudgetSpent as error:
            raise JudgeFailed(Reason.JUDGE_BUDGET, str(error)) from None
        except Malformed as error:
            raise JudgeFailed(Reason.JUDGE_MALFORMED, f"{question.model}: {error}") from None
        except _Unavailable as error:
            raise JudgeFailed(Reason.JUDGE_UNAVAILABLE, f"{url}: {error}") from None

    async def _tried(self, question: Question, parse: Callable[[str], T], about: str, url: str) -> str:
        tries = stamina.retry_context(
            on=_again,
            attempts=self._settings.attempts,
            timeout=None,
            wait_initial=self._first_wait_s,
            wait_max=_MOST_RETRY_AFTER_S,
            wait_jitter=self._first_wait_s,
        )
        async for attempt in tries:
            with attempt:
                async with self._room:
                    self._pay(about)
                    answer = await self._call(question, about, url)
                parse(answer)
                self._cache.put(question.digest, answer)
                return answer
        raise AssertionError("stamina ends with an answer or an exception")

    def _pay(self, about: str) -> None:
        calls = self._calls.pop(about, 0)
        self._calls[about] = calls + 1
        if len(self._calls) > _REMEMBERED:
            self._calls.popitem(last=False)
        if calls >= self._settings.calls_per_rollout:
            raise BudgetSpent(
                f"{calls} calls of the judge for {about} (LEYDEN_REWARD_JUDGE_CALLS_PER_ROLLOUT)"
            )
        self._budget.begin(time.monotonic())
        metrics.JUDGE_CALLS.inc()

    async def _call(self, question: Question, about: str, url: str) -> str:
        began = time.monotonic()
        try:
            response = await self._client().post(
                f"{url.rstrip('/')}/chat/completions",
                json=_body(question),
                headers={"x-leyden-session": about, "x-leyden-agent": ROLE},
            )
        except httpx.HTTPError as error:
            raise _Unavailable(f"{type(error).__name__} {error}") from None
        finally:
            metrics.JUDGE_SECONDS.observe(time.monotonic() - began)
        answer, tokens = _read(response)
        self._budget.spend(tokens, time.monotonic())
        metrics.JUDGE_TOKENS.inc(tokens)
        return answer

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            key = self._settings.api_key
            self._http = httpx.AsyncClient(
                timeout=self._settings.deadline_s,
                limits=httpx.Limits(max_connections=self._settings.concurrency),
                headers={"authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            )
        return self._http


def _again(error: Exception) -> bool | float:
    if isinstance(error, _Unavailable):
        return True if error.after_s is None else error.after_s
    return isinstance(error, Malformed)


def _body(question: Question) -> dict[str, Any]:
    return {
        "model": question.model,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question.prompt}],
        "temperature": 0,
        "max_tokens": question.max_tokens,
    }


def _read(response: httpx.Response) -> tuple[str, int]:
    """The answer's text and what it cost in tokens."""
    if response.status_code == 429 or response.status_code >= 500:
        raise _Unavailable(f"HTTP {response.status_code}: {response.text[:500]}", _retry_after(response))
    if response.is_error:
        text = f"the judge refused: HTTP {response.status_code}: {response.text[:500]}"
        raise JudgeFailed(Reason.JUDGE_UNAVAILABLE, text)
    try:
        body = response.json()
        content = body["choices"][0]["message"]["content"]
        tokens = (body.get("usage") or {}).get("total_tokens") or 0
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _Unavailable(f"no chat completion: {response.text[:200]}") from None
    if not isinstance(content, str):
        raise Malformed("it says nothing")
    return content, tokens if isinstance(tokens, int) and tokens >= 0 else 0


def _retry_after(response: httpx.Response) -> float | None:
    try:
        wait_s = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(max(wait_s, 0.0), _MOST_RETRY_AFTER_S)
