"""The learner's process on verl, over a real broker and Postgres: killed, resumed, and changed to torch.

Run by ``make test-verl``: ``LEYDEN_VERL_PYTHON`` is the Python that has verl.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file
from torch import Tensor

from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import RegistryStub, make_sample, write_model
from leyden_learner.trainer import Trainer
from leyden_local.ports import free_ports
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.settings import DatabaseSettings, KafkaSettings
from leyden_schemas import Topics, encode

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(400)]

POLICY = "tiny"
BATCH = 4
STEPS = 6
DEADLINE_S = 180.0
SAMPLES = [make_sample(index) for index in range(STEPS * BATCH)]
LR = 1e-2


@pytest.fixture(scope="module")
def verl_python() -> str:
    """Fail with what to do when verl's environment is missing."""
    python = os.environ.get("LEYDEN_VERL_PYTHON", "")
    if not Path(python).is_file():
        pytest.fail("LEYDEN_VERL_PYTHON is not a Python with verl; run `make test-verl`")
    return python


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[tuple[RegistryStub, int]]:
    """A registry with the policy's first version, and its port."""
    stub = RegistryStub(POLICY, write_model(tmp_path / "first"))
    (port,) = free_ports(1)
    stop = asyncio.Event()
    serving = asyncio.create_task(HttpServer("registry", stub.app, "127.0.0.1", port).run(stop))
    yield stub, port
    stop.set()
    await serving


async def publish(kafka: KafkaSettings) -> None:
    """All samples, in one partition and in order."""
    await ensure_topics(kafka, [Topics.SAMPLES])
    publisher = KafkaPublisher(kafka, "tests")
    await publisher.start()
    for sample in SAMPLES:
        await publisher.publish_raw(Topics.SAMPLES.name, b"one partition", encode(sample))
    await publisher.stop()


@asynccontextmanager
async def learner(
    python: str,
    backend: str,
    kafka: KafkaSettings,
    database: DatabaseSettings,
    checkpoints: Path,
    registry_port: int,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The process on a backend, and the port of its metrics; killed in the end."""
    (ops,) = free_ports(1)
    environment = os.environ | {
        "LEYDEN_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": str(kafka.idempotent),
        "LEYDEN_DATABASE_URL": database.url.get_secret_value(),
        "LEYDEN_OPS_PORT": str(ops),
        "LEYDEN_LEARNER_BACKEND": backend,
        "LEYDEN_LEARNER_POLICY": POLICY,
        "LEYDEN_LEARNER_REGISTRY_URL": f"http://127.0.0.1:{registry_port}",
        "LEYDEN_LEARNER_CHECKPOINT_DIR": str(checkpoints),
        "LEYDEN_LEARNER_BATCH_ROLLOUTS": str(BATCH),
        "LEYDEN_LEARNER_MIN_ROLLOUTS": "1",
        "LEYDEN_LEARNER_MAX_STALENESS": "100",
        "LEYDEN_LEARNER_LR": str(LR),
        "LEYDEN_LEARNER_KL_COEFFICIENT": "0.05",
        "LEYDEN_LEARNER_THREADS": "1",
        "LEYDEN_LEARNER_DEVICE": "cpu",
    }
    child = await asyncio.create_subprocess_exec(python, "-m", "leyden_learner", env=environment)
    try:
        yield child, ops
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def versions(stub: RegistryStub, child: asyncio.subprocess.Process, count: int) -> None:
    """Wait until so many are registered."""
    async with asyncio.timeout(DEADLINE_S):
        while len(stub.registered) < count:
            assert child.returncode is None
            await asyncio.sleep(0.01)


async def metrics(port: int) -> dict[str, float]:
    """The learner's own, by name; those with further labels are added up."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics")
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for each in family.samples:
            if each.name.startswith("leyden_learner_"):
                found[each.name] = found.get(each.name, 0.0) + each.value
    return found


async def stopped(child: asyncio.subprocess.Process, by: signal.Signals) -> int:
    """Its exit status after a signal."""
    child.send_signal(by)
    async with asyncio.timeout(DEADLINE_S):
        return await child.wait()


def steady(first: Path) -> dict[str, Tensor]:
    """The weights that torch alone comes to."""
    settings = LearnerSettings(policy=POLICY, lr=LR, kl_coefficient=0.05, threads=1, device="cpu")
    trainer = Trainer.begin(settings, first, first)
    for step in range(STEPS):
        trainer.advance(SAMPLES[step * BATCH : (step + 1) * BATCH], step)
    return {name: value.detach() for name, value in trainer._parameters.items()}


async def test_a_run_on_verl_survives_a_kill_and_goes_on_with_torch(
    verl_python: str,
    kafka: KafkaSettings,
    database: DatabaseSettings,
    registry: tuple[RegistryStub, int],
    tmp_path: Path,
) -> None:
    """Two steps on verl, killed; two more; the last two on torch: the weights are as if never stopped."""
    stub, port = registry
    await publish(kafka)
    checkpoints, shown = tmp_path / "checkpoints", {}
    for python, backend, wanted, by in (
        (verl_python, "verl", 2, signal.SIGKILL),
        (verl_python, "verl", 4, signal.SIGTERM),
        (sys.executable, "torch", STEPS, signal.SIGTERM),
    ):
        async with learner(python, backend, kafka, database, checkpoints, port) as (child, ops):
            await versions(stub, child, wanted)
            shown[backend] = await metrics(ops)
            assert await stopped(child, by) == (-signal.SIGKILL if by is signal.SIGKILL else 0)
    assert [each["step"] for each in stub.registered] == list(range(1, STEPS + 1))
    first, last = (set(stub.registered[at]["metrics"]) for at in (0, -1))
    assert last - first == {"clip_low_fraction", "clip_high_fraction"}, "verl does not tell which are clipped"
    assert not first - last
    verls, torchs = (
        {name for name in shown[backend] if name.removeprefix("leyden_learner_") in last}
        for backend in ("verl", "torch")
    )
    assert torchs - verls == {"leyden_learner_clip_low_fraction", "leyden_learner_clip_high_fraction"}
    assert verls
    assert not verls - torchs
    artifact = Path(stub.registered[-1]["artifact"].removeprefix("file://"))
    reached = load_file(artifact / "model.safetensors")
    for name, value in steady(tmp_path / "first").items():
        assert (reached[name] - value).abs().max().item() < 1e-3, name
