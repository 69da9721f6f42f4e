"""From answers to the numbers that are reported, and whether the goals were reached: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway_bench.measure import Measurement

from learner_bench.campaign import OURS_PACKED, OURS_PADDED, Found

PEERS = ("trl padded", "verl packed", "verl padded")
SAME = 0.01
"""Gradients of the first step differ by less where subjects computed the same step."""


def measurements(found: Found, peak_tflops: float = 0.0) -> list[Measurement]:
    """All numbers of one subject over one batch; MFU where the device's peak is known."""
    answer = found.answer
    by_metric: list[tuple[str, str, list[float]]] = [
        ("tokens_per_second", "1/s", [found.tokens / seconds for seconds in answer.step_s]),
        ("tokens_per_cpu_second", "1/s", [found.tokens / seconds for seconds in answer.cpu_s]),
        ("step", "s", answer.step_s),
        ("memory", "MB", [answer.memory_bytes / 1e6]),
        ("grad_norm", "", [answer.grad_norm]),
    ]
    if answer.stages_s:
        by_metric += [("pipeline", "%", pipeline(found)), ("outside_passes", "%", outside(found))]
    if peak_tflops:
        speeds = by_metric[0][2]
        shares = [model_flops_share(speed, found.parameters, peak_tflops) for speed in speeds]
        by_metric.append(("mfu", "%", shares))
    return [Measurement.of(found.subject, found.case, name, unit, runs) for name, unit, runs in by_metric]


def pipeline(found: Found) -> list[float]:
    """Share of decoding, batching and the checkpoint in a step with all that belongs to it, by run."""
    stages = found.answer.stages_s
    return [
        100 * (decode + batch + checkpoint) / (decode + step + checkpoint)
        for decode, batch, checkpoint, step in zip(
            stages["decode"], stages["batch"], stages["checkpoint"], found.answer.step_s, strict=True
        )
    ]


def outside(found: Found) -> list[float]:
    """Share of everything but forward and backward passes, the optimizer's step included, by run."""
    stages = found.answer.stages_s
    return [
        100 * (decode + step - passes + checkpoint) / (decode + step + checkpoint)
        for decode, passes, checkpoint, step in zip(
            stages["decode"], stages["passes"], stages["checkpoint"], found.answer.step_s, strict=True
        )
    ]


def model_flops_share(tokens_per_second: float, parameters: int, peak_tflops: float) -> float:
    """MFU in %: 6 floating-point operations per parameter and token, attention not counted."""
    return 100 * 6 * parameters * tokens_per_second / (peak_tflops * 1e12)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside what was measured."""

    goal: str
    bound: str
    value: float
    met: bool
    against: str


def verdicts(measured: Sequence[Measurement], *, metric: str = "tokens_per_second") -> list[Verdict]:
    """The goals that something was measured for."""
    by_key = {(m.case, m.subject, m.metric): m.value for m in measured}
    found: list[Verdict] = []
    for case in dict.fromkeys(m.case for m in measured):
        ours = by_key.get((case, OURS_PACKED, metric))
        peers = {name: by_key[case, name, metric] for name in PEERS if (case, name, metric) in by_key}
        if ours and peers:
            fastest = max(peers, key=peers.__getitem__)
            ratio = ours / peers[fastest]
            found.append(Verdict(f"{case}: ours to the faster peer", "≥ 1 x", ratio, ratio >= 1, fastest))
        padded = by_key.get((case, OURS_PADDED, metric))
        if case == "ragged" and ours and padded:
            ratio = ours / padded
            found.append(Verdict(f"{case}: packed to padded", "≥ 1.5 x", ratio, ratio >= 1.5, OURS_PADDED))
        share = by_key.get((case, OURS_PACKED, "pipeline"))
        if share is not None:
            found.append(
                Verdict(f"{case}: decode, batch, checkpoint", "≤ 5 %", share, share <= 5, OURS_PACKED)
            )
    return found


def disagreements(measured: Sequence[Measurement]) -> list[str]:
    """Subjects whose first gradient is not ours: they did not compute the same step."""
    norms = {(m.case, m.subject): m.value for m in measured if m.metric == "grad_norm"}
    return [
        f"{subject}, {case}: gradient {norm:g} instead of {norms[case, OURS_PACKED]:g}"
        for (case, subject), norm in norms.items()
        if (case, OURS_PACKED) in norms and abs(norm / norms[case, OURS_PACKED] - 1) > SAME
    ]
