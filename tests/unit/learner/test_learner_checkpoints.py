"""Checkpoint folders on disk: complete or absent, and what pruning leaves."""

import resource
from pathlib import Path

import pytest

from leyden_learner.checkpoints import CheckpointNotWritten, CheckpointStore, FolderInUse
from leyden_platform.artifacts import TRAINER_STATE


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model folder with weights of several kinds."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
        "model.safetensors.index.json",
        ".git",
    ):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", "tiny", "default")


def save(folder: Path) -> None:
    """What a trainer writes."""
    (folder / "model.safetensors").write_text("new weights")
    (folder / "config.json").write_text("its own")
    (folder / TRAINER_STATE).mkdir()
    (folder / TRAINER_STATE / "state.safetensors").write_text("state")


def test_a_checkpoint_has_new_weights_and_the_base_s_description(store: CheckpointStore, base: Path) -> None:
    folder = store.write(7, base, save)
    assert folder.is_absolute()
    assert folder.name.startswith("step-000007-")
    found = {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}
    assert found == {
        "config.json": "config.json",
        "tokenizer.json": "tokenizer.json",
        "chat_template.jinja": "chat_template.jinja",
        "model.safetensors": "new weights",
        f"{TRAINER_STATE}/state.safetensors": "state",
    }
    assert store.write(7, base, save) != folder


def test_others_may_read_what_is_served(store: CheckpointStore, base: Path) -> None:
    def private(folder: Path) -> None:
        save(folder)
        (folder / "model.safetensors").chmod(0o600)

    assert (store.write(1, base, private) / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_nothing(store: CheckpointStore, base: Path, tmp_path: Path) -> None:
    def too_much(folder: Path) -> None:
        save(folder)
        (folder / "model.safetensors").write_bytes(bytes(2**20))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(CheckpointNotWritten, match="cannot write a checkpoint"):
            store.write(1, base, too_much)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "checkpoints" / "tiny" / "default").iterdir())


def test_what_a_crash_left_behind_is_removed(store: CheckpointStore, base: Path) -> None:
    kept = store.write(1, base, save)
    unfinished = kept.parent / ".unfinished-step-000003-abc"
    unfinished.mkdir()
    assert store.remove_unfinished() == [unfinished.name]
    assert list(kept.parent.iterdir()) == [kept]


def test_nothing_to_remove_before_the_first_checkpoint(store: CheckpointStore) -> None:
    assert store.names() == store.remove_unfinished() == []


def test_one_learner_at_a_time(store: CheckpointStore, tmp_path: Path) -> None:
    other = CheckpointStore(tmp_path / "checkpoints", "tiny", "default")
    store.acquire()
    with pytest.raises(FolderInUse, match="another learner works in"):
        other.acquire()
    store.release()
    other.acquire()
    other.release()
