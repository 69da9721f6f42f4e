"""What every place for checkpoints keeps to: a folder that others read, and a real object store."""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from object_store import Bucket, environment, silent_server

from leyden_learner.archive import Archive, FolderArchive, ObjectArchive
from leyden_learner.checkpoints import CheckpointNotWritten, CheckpointStore
from leyden_platform.artifacts import TRAINER_STATE, IncompleteArtifact, artifact_digest, verify_artifact
from leyden_platform.objects import (
    MANIFEST,
    ArtifactCache,
    ObjectFolder,
    ObjectSettings,
    StoreTimedOut,
)

PLACES = ["folder", "object store"]


def write_weights(folder: Path) -> None:
    """What a trainer writes; different every time."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + os.urandom(64))
    (folder / TRAINER_STATE).mkdir()
    (folder / TRAINER_STATE / "state.safetensors").write_bytes(os.urandom(8))


@dataclass
class Place:
    """A place for checkpoints, as seen from a machine with a disk of its own."""

    make: Callable[[str], tuple[CheckpointStore, Archive]]
    base: Path
    cache: ArtifactCache
    bucket: Bucket

    def __post_init__(self) -> None:
        self.store, self.archive = self.make("first machine")

    async def keep(self, step: int) -> tuple[str, str]:
        """A new checkpoint: its URI and digest."""
        folder = await asyncio.to_thread(self.store.write, step, self.base, write_weights)
        return await self.archive.keep(folder), artifact_digest(folder)

    async def served(self, uri: str, digest: str) -> Path:
        """What a server finds there."""
        folder = await self.cache.folder(uri, digest)
        if verify_artifact(folder) != digest:
            raise IncompleteArtifact("digest", uri, "other bytes")
        return folder


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, bucket: Bucket, tmp_path: Path) -> Place:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (base / name).write_text("{}")

    def make(machine: str) -> tuple[CheckpointStore, Archive]:
        if request.param == "folder":
            shared = CheckpointStore(tmp_path / "shared", "tiny", "default")
            return shared, FolderArchive(shared)
        store = CheckpointStore(tmp_path / machine, "tiny", "default")
        root = bucket.folder("checkpoints/tiny/default")
        return store, ObjectArchive(store, root, unfinished_after_s=0)

    return Place(make, base, ArtifactCache(tmp_path / "cache", bucket.settings), bucket)


async def test_what_is_kept_is_whole_for_others(place: Place) -> None:
    uri, digest = await place.keep(1)
    folder = await place.served(uri, digest)
    assert artifact_digest(folder) == digest
    (name,) = await place.archive.names()
    assert place.archive.uri(name) == uri
    assert name.startswith("step-000001-")


async def test_a_trainer_goes_on_from_it_on_another_machine(place: Place) -> None:
    uri, digest = await place.keep(1)
    here = await place.archive.folder(uri, digest)
    _, elsewhere = place.make("second machine")
    there = await elsewhere.folder(uri, digest)
    state = f"{TRAINER_STATE}/state.safetensors"
    assert (there / state).read_bytes() == (here / state).read_bytes()
    assert verify_artifact(there) == digest


async def test_the_newest_is_described_by_the_one_before_it(place: Place) -> None:
    first, digest = await place.keep(1)
    place.base = await place.archive.folder(first, digest)
    second, digest = await place.keep(2)
    assert verify_artifact(await place.served(second, digest)) == digest
    assert len(await place.archive.names()) == 2


async def test_trainer_state_goes_and_the_weights_stay(place: Place) -> None:
    uri, digest = await place.keep(1)
    (name,) = await place.archive.names()
    await place.archive.delete_trainer_state(name)
    await place.archive.delete_trainer_state(name)
    assert await place.served(uri, digest)
    _, elsewhere = place.make("second machine")
    with suppress(IncompleteArtifact):
        assert not ((await elsewhere.folder(uri, digest)) / TRAINER_STATE).exists()


async def test_what_is_deleted_is_gone_and_nothing_else(place: Place) -> None:
    (first, first_digest), (second, digest) = await place.keep(1), await place.keep(2)
    names = await place.archive.names()
    await place.archive.delete(names[0])
    await place.archive.delete(names[0])
    assert await place.archive.names() == names[1:]
    assert await place.served(second, digest)
    with pytest.raises(IncompleteArtifact) as failure:
        await place.served(first, first_digest)
    assert failure.value.reason == "missing"


async def test_what_nobody_knows_is_removed(place: Place) -> None:
    await place.keep(1)
    (name,) = await place.archive.names()
    (place.store.folder / ".unfinished-step-000002-0").mkdir()
    assert name in await place.archive.delete_unknown([name])
    assert await place.archive.names() == []
    assert not list(place.store.folder.glob(".unfinished-*"))


async def test_nothing_is_there_before_the_first(place: Place) -> None:
    assert await place.archive.names() == []


async def test_a_full_disk_leaves_nothing(place: Place) -> None:
    def full(folder: Path) -> None:
        write_weights(folder)
        with Path("/dev/full").open("wb", buffering=0) as device:
            device.write(b"one byte more")

    with pytest.raises(CheckpointNotWritten, match="No space left on device"):
        place.store.write(1, place.base, full)
    assert await place.archive.names() == []
    assert not list(place.store.folder.iterdir())


async def test_what_somebody_else_put_there_stays(bucket: Bucket, tmp_path: Path) -> None:
    """A copy of a checkpoint for safe keeping, or notes: a sweep must not take them for what a crash left."""
    store, root = CheckpointStore(tmp_path / "here", "tiny", "default"), bucket.folder("checkpoints")
    for name in ("step-000001-1a2b3c4d.bak", "step-best", "notes"):
        (store.folder / name).mkdir(parents=True)
        await root.child(name).write("config.json", b"{}")
    for archive in (FolderArchive(store), ObjectArchive(store, root, unfinished_after_s=0)):
        assert await archive.names() == []
        assert await archive.delete_unknown(await archive.names()) == []
    assert len(list(store.folder.iterdir())) == len(await root.folders()) == 3


async def test_an_upload_without_its_end_is_no_checkpoint(bucket: Bucket, tmp_path: Path) -> None:
    """``kill -9`` in the middle of an upload, whose prefix may still be somebody's."""
    store = CheckpointStore(tmp_path / "here", "tiny", "default")
    root = bucket.folder("checkpoints/tiny/default")
    await root.child("step-000001-00000000").write("config.json", b"{}")
    patient = ObjectArchive(store, root, unfinished_after_s=3600)
    assert await patient.delete_unknown(await patient.names()) == []
    with pytest.raises(IncompleteArtifact, match="nothing was uploaded whole"):
        await patient.folder(patient.uri("step-000001-00000000"), "")
    archive = ObjectArchive(store, root, unfinished_after_s=0)
    assert await archive.delete_unknown(await archive.names()) == ["step-000001-00000000"]
    assert await root.objects() == []


async def test_a_machine_keeps_the_newest_only_once_it_is_uploaded(bucket: Bucket, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    store = CheckpointStore(tmp_path / "here", "tiny", "default")
    archive = ObjectArchive(store, bucket.folder("checkpoints"), unfinished_after_s=0)
    folders = [store.write(step, base, write_weights) for step in (1, 2)]
    await archive.keep(folders[1])
    assert store.names() == [folders[1].name]
    assert MANIFEST in [item.name for item in await bucket.folder(f"checkpoints/{folders[1].name}").objects()]


async def test_other_bytes_than_were_recorded_are_not_fetched(bucket: Bucket, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    store = CheckpointStore(tmp_path / "here", "tiny", "default")
    archive = ObjectArchive(store, bucket.folder("checkpoints"), unfinished_after_s=0)
    uri = await archive.keep(store.write(1, base, write_weights))
    with pytest.raises(IncompleteArtifact, match="recorded was"):
        await archive.folder(uri, "0" * 64)


async def test_an_upload_that_times_out_names_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    store = CheckpointStore(tmp_path / "here", "tiny", "default")
    settings = ObjectSettings(allow_http=True, request_timeout_s=0.2, max_retries=0)
    folder = store.write(1, base, write_weights)
    with silent_server() as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        archive = ObjectArchive(store, ObjectFolder("s3://bucket/x", settings), unfinished_after_s=0)
        with pytest.raises(StoreTimedOut, match="s3://bucket/x/step-000001-"):
            await archive.keep(folder)
    assert store.names() == [folder.name]
