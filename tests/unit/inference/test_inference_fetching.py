"""Versions in an object store are loaded from this machine's disk, or refused by reason."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from object_store import Bucket, environment, silent_server

from leyden_inference.errors import LoadFailed
from leyden_inference.fetching import make_fetcher
from leyden_inference.loading import Loader
from leyden_inference.settings import InferenceSettings
from leyden_platform.clock import SystemClock
from leyden_platform.objects import ObjectSettings, upload_artifact
from leyden_schemas import ModelPublished

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"


def announced(artifact: str, digest: str) -> ModelPublished:
    return ModelPublished(
        event_id=uuid4(),
        policy="calculator",
        version=1,
        occurred_at=SystemClock().now(),
        artifact=artifact,
        digest=digest,
    )


def settings(folder: Path, objects: ObjectSettings, **changes: Any) -> InferenceSettings:
    return InferenceSettings(cache_dir=folder / "cache", objects=objects, **changes)


async def test_a_version_of_a_store_is_loaded(bucket: Bucket, tmp_path: Path) -> None:
    target = bucket.folder("calculator/step-1")
    digest = (await upload_artifact(SEED, target)).digest
    fetcher = make_fetcher(settings(tmp_path, bucket.settings))
    local = await fetcher.local(announced(target.url, digest))
    assert local.artifact == (tmp_path / "cache" / digest).as_uri()
    assert Loader().load_published(local).eos


async def test_a_version_in_a_folder_stays_there(tmp_path: Path) -> None:
    message = announced(SEED.as_uri(), "0" * 64)
    assert await make_fetcher(settings(tmp_path, ObjectSettings())).local(message) is message


async def test_other_bytes_than_announced_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    target = bucket.folder("calculator/step-1")
    digest = (await upload_artifact(SEED, target)).digest
    size = (SEED / "generation_config.json").stat().st_size
    await target.write("generation_config.json", b"{}".ljust(size))
    with pytest.raises(LoadFailed, match=r"generation_config\.json: has sha256") as failure:
        await make_fetcher(settings(tmp_path, bucket.settings)).local(announced(target.url, digest))
    assert failure.value.reason == "digest"


async def test_a_version_larger_than_the_cache_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    target = bucket.folder("calculator/step-1")
    digest = (await upload_artifact(SEED, target)).digest
    fetcher = make_fetcher(settings(tmp_path, bucket.settings, cache_max_bytes=1000))
    with pytest.raises(LoadFailed, match="LEYDEN_INFERENCE_CACHE_MAX_BYTES") as failure:
        await fetcher.local(announced(target.url, digest))
    assert failure.value.reason == "cache_full"


async def test_a_store_that_never_answers_is_a_failed_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = ObjectSettings(allow_http=True, request_timeout_s=0.2, max_retries=0)
    with silent_server() as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(LoadFailed, match="timed out") as failure:
            await make_fetcher(settings(tmp_path, objects)).local(announced("s3://bucket/a", "0" * 64))
    assert failure.value.reason == "timed_out"


async def test_what_is_no_place_in_a_store_is_unsupported(tmp_path: Path) -> None:
    fetcher = make_fetcher(settings(tmp_path, ObjectSettings()))
    with pytest.raises(LoadFailed, match="write s3://bucket/prefix") as failure:
        await fetcher.local(announced("s3://bucket/../x", "0" * 64))
    assert failure.value.reason == "unsupported"
