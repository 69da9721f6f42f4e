"""The arithmetic of the gateway's benchmark, its stub's framing, and its command line."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from gateway_bench.cases import KINDS, Effort
from gateway_bench.goals import GOALS, verdicts
from gateway_bench.load import Call, LoadPlan, encode_request
from gateway_bench.measure import Accounting, Measurement, RunResult, added, measurements, percentile
from gateway_bench.payload import chunks, compact, prompt_ids, whole
from gateway_bench.report import read_json, write_json
from gateway_bench.stub import Answers, StubPlan, content_length
from gateway_bench.trajectory import Conversation

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gateway.py"


def a_run(*, requests: int = 1000, cpu_s: float = 0.5, p50_s: float = 0.004) -> RunResult:
    return RunResult(
        answered=requests + 10,
        requests=requests,
        chunks=0,
        seconds=2.0,
        latency_p50_s=p50_s,
        latency_p99_s=0.01,
        first_byte_p50_s=p50_s,
        cpu_s={"subject": cpu_s, "load": 0.1},
        busy={"load": 0.25},
        peak_memory=80_000_000,
    )


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.99, 4.0), (0.25, 1.0), (0.26, 2.0)])
def test_a_percentile_is_the_least_value_with_enough_at_or_below_it(share: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == expected


def test_the_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 0.5) == 0.0


def test_cpu_and_throughput_are_per_request_of_the_window_and_medians_of_runs() -> None:
    found = {m.metric: m for m in measurements("leyden", "whole-32", [a_run(), a_run(cpu_s=0.3), a_run()])}
    assert found["cpu_per_request"].value == 500
    assert found["cpu_per_request"].runs == (500, 300, 500)
    assert found["rps"].value == 500
    assert found["memory"].value == 80
    assert found["load_core_busy"].value == 25
    assert found["load_cpu_per_request"].unit == "us"
    assert "cpu_per_chunk" not in found


def test_a_run_without_requests_has_no_throughput() -> None:
    assert "rps" not in {m.metric for m in measurements("litellm", "whole-1", [a_run(requests=0)])}


def test_what_a_gateway_adds_is_its_latency_less_that_of_going_directly() -> None:
    direct = measurements("direct", "whole-1", [a_run(p50_s=0.001), a_run(p50_s=0.003), a_run(p50_s=0.002)])
    nginx = measurements("nginx", "whole-1", [a_run(p50_s=0.005), a_run(p50_s=0.004), a_run(p50_s=0.009)])
    (p50,) = [m for m in added([*direct, *nginx]) if m.metric == "added_p50"]
    assert (p50.subject, p50.value, p50.runs) == ("nginx", 3, (3, 2, 7))


@pytest.mark.parametrize(
    ("counted", "recorded", "expected"),
    [
        (["a", "b"], ["a", "b"], Accounting(2, missing=0, duplicated=0, unseen=0)),
        (["a", "b"], ["a"], Accounting(2, missing=1, duplicated=0, unseen=0)),
        (["a"], ["a", "a"], Accounting(1, missing=0, duplicated=1, unseen=0)),
        (["a"], ["a", "b"], Accounting(1, missing=0, duplicated=0, unseen=1)),
        (["a", "a"], ["a"], Accounting(2, missing=1, duplicated=0, unseen=0)),
    ],
)
def test_every_counted_completion_is_on_the_log_once(
    counted: list[str], recorded: list[str], expected: Accounting
) -> None:
    found = Accounting.of(counted, Counter(recorded))
    assert found == expected
    assert found.exact == (expected.missing == expected.duplicated == 0)


def test_a_goal_is_judged_by_the_worst_of_leydens_numbers() -> None:
    measured = [
        Measurement.of("leyden", "whole-32", "cpu_per_request", "us", [340.0]),
        Measurement.of("litellm", "whole-32", "cpu_per_request", "us", [27_000.0]),
        Measurement.of("leyden", "whole-32", "missing", "records", [0.0]),
        Measurement.of("leyden", "streamed-32", "missing", "records", [2.0]),
    ]
    found = {verdict.goal.metric: verdict for verdict in verdicts(measured)}
    assert found["cpu_per_request"].met
    assert not found["missing"].met
    assert found["missing"].value == 2


def test_every_goal_is_of_a_case_that_a_full_run_measures() -> None:
    names = [case.name for case in Effort().cases(KINDS)]
    assert all(any(name.startswith(goal.case) for name in names) for goal in GOALS)


def test_an_answer_is_about_24_kb_and_holds_ids_and_logprobs_of_every_token() -> None:
    answer = whole(prompt_ids(range(500)), range(500, 700))
    choice = answer["choices"][0]
    assert 22_000 < len(compact(answer)) < 27_000
    assert len(answer["prompt_token_ids"]) == 500
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"]) == 200


def test_a_streamed_answer_says_the_same_chunk_by_chunk() -> None:
    pieces = chunks(prompt_ids(range(500)), range(500, 700))
    tokens = [piece["choices"][0]["token_ids"][0] for piece in pieces[1:-1]]
    assert tokens == prompt_ids(range(500, 700))
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[1:-1]] == [None] * 199 + ["stop"]


def test_the_stub_frames_what_it_sends_and_makes_each_prompt_its_own() -> None:
    answers = Answers(StubPlan(port=0))
    bodies = []
    for answer in (answers.whole(b"{}"), answers.whole(b"{}")):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert content_length(head) == len(body)
        bodies.append(json.loads(body))
    assert bodies[0]["prompt_token_ids"][0] != bodies[1]["prompt_token_ids"][0]
    assert bodies[0]["prompt_token_ids"][1:] == bodies[1]["prompt_token_ids"][1:]


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 12\r\nhost: x", 12),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length:7", 7),
        (b"GET /v1/models HTTP/1.1\r\nhost: x", 0),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked", None),
    ],
)
def test_the_stub_reads_the_length_of_a_request(head: bytes, length: int | None) -> None:
    assert content_length(head) == length


def test_a_request_is_http_with_the_rollouts_path_and_token() -> None:
    plan = LoadPlan("127.0.0.1", 8000, [], '{"n":1}', streamed=False, concurrency=1, seconds=1)
    head, _, body = encode_request(plan, Call("/rollouts/r/attempts/1/v1/chat/completions", "t")).partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"POST /rollouts/r/attempts/1/v1/chat/completions HTTP/1.1\r\n")
    assert b"\r\nauthorization: Bearer t\r\n" in head
    assert content_length(head) == len(body) == 7


def test_each_turn_of_a_conversation_extends_the_one_before() -> None:
    conversation = Conversation.of(turns=100, tokens=32_000)
    assert conversation.unique_tokens == 32_000
    first = json.loads(conversation.answer(conversation.request(3, alone=False)))
    second = json.loads(conversation.answer(conversation.request(4, alone=False)))
    before = first["prompt_token_ids"] + first["choices"][0]["token_ids"]
    assert second["prompt_token_ids"][: len(before)] == before
    assert len(second["prompt_token_ids"]) == len(before) + conversation.added


def test_turns_sent_alone_hold_every_token_once() -> None:
    conversation = Conversation.of(turns=5, tokens=1600)
    answers = [json.loads(conversation.answer(conversation.request(t, alone=True))) for t in range(5)]
    ids = [n for a in answers for n in a["prompt_token_ids"] + a["choices"][0]["token_ids"]]
    assert ids == prompt_ids(range(1600))


def test_the_json_file_is_a_list_of_measurements(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", [Measurement.of("leyden", "whole-1", "rps", "1/s", [1.0, 3.0, 2.0])])
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {
            "subject": "leyden",
            "case": "whole-1",
            "metric": "rps",
            "unit": "1/s",
            "value": 2.0,
            "runs": [1.0, 3.0, 2.0],
        }
    ]


def test_results_of_several_runs_are_put_together_the_last_of_equals_counting(tmp_path: Path) -> None:
    first = [
        Measurement.of("leyden", "whole-1", "rps", "1/s", [1.0]),
        Measurement.of("nginx", "whole-1", "rps", "1/s", [9.0]),
    ]
    again = [Measurement.of("leyden", "whole-1", "rps", "1/s", [2.0])]
    paths = [tmp_path / "first.json", tmp_path / "again.json"]
    for path, measured in zip(paths, (first, again), strict=True):
        write_json(path, measured)
    assert {m.subject: m.value for m in read_json(paths)} == {"leyden": 2.0, "nginx": 9.0}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "--quick"),
        (["--subjects", "apache"], 2, "apache"),
        (["--concurrency", "0"], 2, "from 1"),
        (["--subjects", "none", "--merge", "gone.json"], 2, "gone.json"),
    ],
)
def test_the_command_line_explains_itself(arguments: list[str], status: int, said: str) -> None:
    done = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
