"""What is served is compared with what was published."""

import json
import math
from pathlib import Path

import pytest

from leyden_inference.errors import LoadFailed
from leyden_inference.vllm.weights import FLOOR_NATS, Verified, judge, reload_limit
from leyden_platform.artifacts import IncompleteArtifact
from leyden_platform.probe import (
    PROBE_FILE,
    PROBE_TOKENS,
    Probe,
    distance,
    looks_stale,
    probe_ids,
    read_probe,
    write_probe,
)


def probe(*logprobs: float) -> Probe:
    return Probe(tuple(range(len(logprobs) + 1)), logprobs)


def version(*logprobs: float) -> Verified:
    return Verified("p@1", Path("/somewhere"), probe(*logprobs), "")


def test_the_distance_is_the_root_mean_square() -> None:
    assert distance([-1.0, -2.0], [-1.0, -2.0]) == 0
    assert distance([-1.0, -2.0], [-4.0, -6.0]) == pytest.approx(math.sqrt((9 + 16) / 2))
    assert distance([-1.0], [-1.0, -2.0]) == math.inf
    assert distance([], []) == math.inf
    assert distance([-1.0], [math.nan]) == math.inf


def test_the_row_is_spread_over_the_vocabulary_and_fits_the_context() -> None:
    ids = probe_ids(496)
    assert len(set(ids)) == len(ids) == PROBE_TOKENS
    assert probe_ids(496, 8) == ids[:8]
    assert max(probe_ids(7)) < 7


def test_a_match_is_measured() -> None:
    assert judge(version(-1.0, -2.0), [-1.0, -2.0], before=None, limit=0.1, engine=0) == 0


def test_other_weights_are_refused() -> None:
    with pytest.raises(LoadFailed, match=r"0\.5 nats off, more than 0\.1") as raised:
        judge(version(-1.0, -2.0), [-1.5, -2.5], before=None, limit=0.1, engine=0)
    assert raised.value.reason == "probe"


def test_the_version_before_is_recognised_within_the_tolerance() -> None:
    """A step of training changes less than what an engine in bf16 is off by is allowed to be."""
    with pytest.raises(LoadFailed, match="as the version before"):
        judge(version(-1.01, -2.01), [-1.0, -2.0], before=probe(-1.0, -2.0), limit=0.1, engine=0)


def test_versions_that_cannot_be_told_apart_pass() -> None:
    assert not looks_stale([-1.02], [-1.0], [-1.001])
    judge(version(-1.0), [-1.02], before=probe(-1.001), limit=0.1, engine=0)
    assert judge(version(-1.0), [-1.0], before=probe(-1.0), limit=0.1, engine=0) == 0


def test_a_reload_must_be_about_as_good_as_a_fresh_start() -> None:
    assert reload_limit(0.1, None) == 0.1
    assert reload_limit(0.1, 3e-6) == FLOOR_NATS
    assert reload_limit(0.1, 2e-3) == pytest.approx(2e-2)
    assert reload_limit(0.1, 0.05) == 0.1


def test_a_probe_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_probe(tmp_path) is None
    write_probe(tmp_path, probe(-1.5, -0.25))
    assert read_probe(tmp_path) == probe(-1.5, -0.25)


@pytest.mark.parametrize(
    "content",
    [
        "no",
        "[]",
        json.dumps({"token_ids": [1], "logprobs": []}),
        json.dumps({"token_ids": [1, 2], "logprobs": [0.5]}),
        json.dumps({"token_ids": [1, 2], "logprobs": ["NaN"]}),
        json.dumps({"token_ids": [1, 2], "logprobs": [-1, -2]}),
    ],
)
def test_what_is_no_probe_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / PROBE_FILE).write_text(content)
    with pytest.raises(IncompleteArtifact, match="not a probe") as raised:
        read_probe(tmp_path)
    assert raised.value.reason == "malformed"
