"""Artifacts in a real object store: whole or not there at all, verified byte for byte, and cached."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from object_store import Bucket, environment, silent_server
from prometheus_client import REGISTRY

from leyden_platform.artifacts import (
    IncompleteArtifact,
    UnsupportedArtifact,
    artifact_digest,
    artifact_files,
    text_digests,
    tokenizer_digest,
)
from leyden_platform.objects import (
    MANIFEST,
    ArtifactCache,
    CacheTooSmall,
    Manifest,
    ManifestFile,
    ObjectFolder,
    ObjectSettings,
    StoreFailed,
    StoreTimedOut,
    look_into,
    object_url,
    upload_artifact,
)

SHA = "0" * 64


def weights(size: int = 64) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + os.urandom(size)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A complete artifact with trainer state."""
    folder = tmp_path / "model"
    (folder / "trainer").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps({"file": name}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(weights())
    (folder / "trainer" / "state.safetensors").write_bytes(b"optimizer")
    (folder / "trainer" / "empty").touch()
    return folder


def cached(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("cache/*"))


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_what_is_uploaded_can_be_seen_into_and_fetched(
    bucket: Bucket, model: Path, tmp_path: Path
) -> None:
    target = bucket.folder("calculator/step-1")
    manifest = await upload_artifact(model, target)
    assert manifest.digest == artifact_digest(model)
    found, files = await look_into(target)
    assert found == manifest
    assert text_digests(files)[0] == tokenizer_digest(model)
    folder = await ArtifactCache(tmp_path / "cache", bucket.settings).folder(target.url, manifest.digest)
    assert artifact_digest(folder) == manifest.digest
    assert not (folder / "trainer").exists()


async def test_files_of_many_parts_arrive_whole(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(weights(12 * 2**20 + 1))
    (model / "model.safetensors.extra").touch()
    target, moved = bucket.folder("big"), count("leyden_objects_bytes_total", direction="down")
    await upload_artifact(model, target)
    folder = await ArtifactCache(tmp_path / "cache", bucket.settings).folder(target.url)
    assert artifact_digest(folder) == artifact_digest(model)
    assert count("leyden_objects_bytes_total", direction="down") - moved > 12 * 2**20


async def test_without_its_manifest_there_is_no_artifact(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    """A crash between the last file and the manifest leaves something that nobody takes for an artifact."""
    target = bucket.folder("half")
    await target.upload({name: model / name for name in ("config.json", "model.safetensors")})
    for read in (look_into(target), ArtifactCache(tmp_path / "cache", bucket.settings).folder(target.url)):
        with pytest.raises(IncompleteArtifact, match="nothing was uploaded whole") as failure:
            await read
        assert failure.value.reason == "missing"
    assert cached(tmp_path) == []


async def test_an_upload_that_failed_can_be_repeated(bucket: Bucket, model: Path) -> None:
    target = bucket.folder("again")
    await target.upload({"model.safetensors": model / "config.json"})
    await upload_artifact(model, target)
    assert (await look_into(target))[0].digest == artifact_digest(model)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.safetensors", None, "missing"),
        ("model.safetensors", b"short", "truncated"),
        ("config.json", b'{"file": "CONFIG.json"}', "digest"),
        (MANIFEST, b"{", "malformed"),
        (MANIFEST, None, "missing"),
    ],
)
async def test_what_was_changed_in_the_store_is_refused(
    bucket: Bucket, model: Path, tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    target = bucket.folder("changed")
    digest = (await upload_artifact(model, target)).digest
    await (target.delete([name]) if content is None else target.write(name, content))
    with pytest.raises(IncompleteArtifact) as seen:
        await look_into(target)
    assert seen.value.reason == reason
    with pytest.raises((IncompleteArtifact, StoreFailed)):
        await ArtifactCache(tmp_path / "cache", bucket.settings).folder(target.url, digest)
    assert cached(tmp_path) == []


async def test_weights_of_the_same_length_but_other_bytes_are_never_served(
    bucket: Bucket, model: Path, tmp_path: Path
) -> None:
    """The registry reads no weights; who serves them reads every byte."""
    target = bucket.folder("swapped")
    digest = (await upload_artifact(model, target)).digest
    await target.write("model.safetensors", weights())
    assert (await look_into(target))[0].digest == digest
    with pytest.raises(IncompleteArtifact, match=r"model\.safetensors: has sha256") as failure:
        await ArtifactCache(tmp_path / "cache", bucket.settings).folder(target.url, digest)
    assert failure.value.reason == "digest"


async def test_another_artifact_than_announced_is_refused(
    bucket: Bucket, model: Path, tmp_path: Path
) -> None:
    target = bucket.folder("other")
    await upload_artifact(model, target)
    with pytest.raises(IncompleteArtifact, match=f"announced was {SHA}"):
        await ArtifactCache(tmp_path / "cache", bucket.settings).folder(target.url, SHA)


async def test_what_is_cached_is_not_fetched_again_unless_it_is_spoiled(
    bucket: Bucket, model: Path, tmp_path: Path
) -> None:
    target, cache = bucket.folder("cached"), ArtifactCache(tmp_path / "cache", bucket.settings)
    digest = (await upload_artifact(model, target)).digest
    folder = await cache.folder(target.url, digest)
    hits = count("leyden_objects_cache_total", result="hit")
    assert await cache.folder(target.url, digest) == folder
    assert count("leyden_objects_cache_total", result="hit") == hits + 1
    (folder / "config.json").write_text("bit rot")
    assert artifact_digest(await cache.folder(target.url, digest)) == digest
    assert count("leyden_objects_cache_total", result="hit") == hits + 1


async def test_one_of_two_who_ask_at_once_fetches(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    target, cache = bucket.folder("twice"), ArtifactCache(tmp_path / "cache", bucket.settings)
    digest = (await upload_artifact(model, target)).digest
    fetched = count("leyden_objects_cache_total", result="fetched")
    first, second = await asyncio.gather(cache.folder(target.url, digest), cache.folder(target.url, digest))
    assert first == second
    assert count("leyden_objects_cache_total", result="fetched") == fetched + 1


async def test_what_was_used_longest_ago_makes_room(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    size = sum((model / name).stat().st_size for name in artifact_files(model))
    cache = ArtifactCache(tmp_path / "cache", bucket.settings, max_bytes=2 * size + 50)
    folders = []
    for number in range(3):
        (model / "model.safetensors").write_bytes(weights())
        target = bucket.folder(f"version-{number}")
        folders.append(await cache.folder(target.url, (await upload_artifact(model, target)).digest))
        os.utime(folders[-1], (number + 1, number + 1))
        if number == 1:
            os.utime(folders[0], (10, 10))
    assert [folder.is_dir() for folder in folders] == [True, False, True]


async def test_an_artifact_larger_than_its_cache_is_refused_by_name(
    bucket: Bucket, model: Path, tmp_path: Path
) -> None:
    target = bucket.folder("large")
    await upload_artifact(model, target)
    with pytest.raises(CacheTooSmall, match="may have 10: allow more"):
        await ArtifactCache(tmp_path / "cache", bucket.settings, max_bytes=10).folder(target.url)


async def test_what_a_crash_left_in_the_cache_is_removed(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    left, target = tmp_path / "cache" / ".fetching-1", bucket.folder("after")
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    await upload_artifact(model, target)
    await ArtifactCache(tmp_path / "cache", bucket.settings).folder(target.url)
    assert not left.exists()


async def test_a_folder_of_this_machine_is_left_where_it_is(model: Path, tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache", ObjectSettings())
    assert await cache.folder(model.as_uri()) == model
    assert not (tmp_path / "cache").exists()


async def test_a_store_that_never_answers_ends_in_a_named_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ObjectSettings(allow_http=True, request_timeout_s=0.2, max_retries=1, transfer_timeout_s=60)
    failed = count("leyden_objects_failures_total", operation="upload", reason="timed_out")
    with silent_server() as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        folder = ObjectFolder("s3://bucket/prefix", settings)
        cache = ArtifactCache(tmp_path / "cache", settings)
        for attempt in (
            upload_artifact(model, folder),
            look_into(folder),
            cache.folder(folder.url),
            folder.objects(),
            folder.folders(),
            folder.delete(["a"]),
        ):
            with pytest.raises(StoreTimedOut, match=r"s3://bucket/prefix: .*timed out"):
                await attempt
    assert count("leyden_objects_failures_total", operation="upload", reason="timed_out") == failed + 1


async def test_a_transfer_has_a_deadline_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ObjectSettings(allow_http=True, request_timeout_s=100, transfer_timeout_s=0.2)
    with silent_server() as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreTimedOut, match="LEYDEN_OBJECTS_TRANSFER_TIMEOUT_S"):
            await ObjectFolder("s3://bucket/prefix", settings).objects()


async def test_a_store_that_is_away_or_refuses_is_named(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreFailed, match="404 Not Found"):
        await ObjectFolder("s3://no-such-bucket/prefix", bucket.settings).objects()
    with silent_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    settings = bucket.settings.model_copy(update={"max_retries": 0})
    with pytest.raises(StoreFailed) as failure:
        await ObjectFolder("s3://bucket/prefix", settings).objects()
    assert failure.value.reason == "failed"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3:///prefix",
        "http://host/x",
        "s3://b/a/../c",
        "s3://b//a",
        "s3://b/a?x=1",
        "s3://k:s@b/a",
        "b/a",
    ],
)
def test_what_is_no_place_in_a_store(uri: str) -> None:
    with pytest.raises(UnsupportedArtifact, match="write s3://bucket/prefix"):
        object_url(uri)


def test_a_place_in_a_store() -> None:
    assert object_url("s3://bucket/a/b/") == "s3://bucket/a/b"
    assert object_url("az://account/container/a") == "az://account/container/a"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/./b", "a//b"])
def test_a_manifest_names_nothing_outside(name: str) -> None:
    with pytest.raises(ValueError, match="names a file outside the artifact"):
        Manifest.of([ManifestFile(name=name, size=1, sha256=SHA)])


def test_a_manifest_knows_the_digest_of_its_folder(model: Path, tmp_path: Path) -> None:
    manifest = Manifest.of([ManifestFile(name="a", size=1, sha256=SHA)])
    with pytest.raises(ValueError, match="says digest"):
        Manifest(digest=SHA, files=manifest.files)
    shutil.rmtree(model / "trainer")
    assert artifact_digest(model) == artifact_digest(Path(shutil.copytree(model, tmp_path / "copy")))
