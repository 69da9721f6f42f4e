"""Checkpoint folders: complete ones have a reproducible digest, every kind of damage is named."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leyden_platform.artifacts import (
    IncompleteArtifact,
    UnsupportedArtifact,
    artifact_digest,
    artifact_path,
    chat_template_digest,
    tokenizer_digest,
    verify_artifact,
)
from leyden_schemas import WeightsKind


def safetensors(*lengths: int, data: bytes | None = None) -> bytes:
    """A safetensors file with one uint8 tensor per length."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for index, length in enumerate(lengths):
        header[f"t{index}"] = {"dtype": "U8", "shape": [length], "data_offsets": [end, end + length]}
        end += length
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + (bytes(end) if data is None else data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete checkpoint with trainer state beside it."""
    made = tmp_path / "step-3"
    (made / "trainer").mkdir(parents=True)
    (made / "trainer" / "optimizer.pt").write_bytes(b"state")
    (made / "config.json").write_text('{"model_type": "qwen3"}')
    (made / "tokenizer.json").write_text('{"version": "1.0"}')
    (made / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (made / "model.safetensors").write_bytes(safetensors(4, 12))
    return made


def shard(folder: Path) -> None:
    """Turn the weights into two shards and an index."""
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in index["weight_map"].values():
        (folder / name).write_bytes(safetensors(8))


def test_a_complete_folder_has_a_digest_that_coreutils_reproduce(folder: Path) -> None:
    listing = (
        r"find . -type f ! -path './trainer/*' -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    )
    expected = subprocess.run(
        listing, cwd=folder, shell=True, capture_output=True, text=True, check=True
    ).stdout
    assert verify_artifact(folder) == artifact_digest(folder) == expected.split()[0]


def test_the_digest_follows_names_and_contents_but_not_trainer_state_or_place(folder: Path) -> None:
    before = verify_artifact(folder)
    moved = shutil.copytree(folder, folder.parent / "elsewhere")
    (moved / "trainer" / "optimizer.pt").write_bytes(b"other state")
    assert verify_artifact(moved) == before
    (moved / "config.json").rename(moved / "config.json.bak")
    assert artifact_digest(moved) != before
    (moved / "config.json.bak").rename(moved / "config.json")
    (moved / "model.safetensors").write_bytes(safetensors(4, 12, data=b"\x01" * 16))
    assert verify_artifact(moved) != before


def test_shards_named_by_an_index_are_checked(folder: Path) -> None:
    shard(folder)
    assert verify_artifact(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(IncompleteArtifact, match=r"^model-00002-of-00002\.safetensors: .*missing") as caught:
        verify_artifact(folder)
    assert (caught.value.reason, caught.value.file) == ("missing", "model-00002-of-00002.safetensors")


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _index(content: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "reason", "text"),
    [
        (lambda folder: shutil.rmtree(folder), "missing", "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "missing", "config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "missing", "tokenizer.json"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "missing", "tokenizer_config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "missing", "model.safetensors"),
        (_write("config.json", b""), "empty", "config.json"),
        (_write("config.json", b'{"a": '), "malformed", "config.json: not JSON"),
        (_write("tokenizer_config.json", b"[]"), "malformed", "not a JSON object"),
        (_write("model.safetensors", b""), "empty", "model.safetensors"),
        (_write("model.safetensors", b"\x01\x02"), "truncated", "inside its header"),
        (_write("model.safetensors", safetensors(4)[:20]), "truncated", "inside its header"),
        (_write("model.safetensors", safetensors(4, 12)[:-1]), "truncated", "bytes its header describes"),
        (_write("model.safetensors", safetensors(4) + b"x"), "malformed", "1 bytes more"),
        (_write("model.safetensors", safetensors()), "empty", "no tensors"),
        (_write("model.safetensors", bytes([2, *[0] * 7]) + b"[]"), "malformed", "not a safetensors"),
        (_write("model.safetensors", bytes([3, *[0] * 7]) + b"\xff{}"), "malformed", "not a safetensors"),
        (_index({"weight_map": {}}), "malformed", "no weight_map"),
        (_index({"weight_map": {"a": "../secret"}}), "malformed", "outside the folder"),
    ],
)  # fmt: skip
def test_damage_is_named(folder: Path, damage: Callable[[Path], object], reason: str, text: str) -> None:
    damage(folder)
    with pytest.raises(IncompleteArtifact, match=text) as caught:
        verify_artifact(folder)
    assert caught.value.reason == reason


def test_every_truncation_of_the_weights_is_seen(folder: Path) -> None:
    whole = safetensors(5, 11)
    for length in range(len(whole)):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(IncompleteArtifact, match=r"^model\.safetensors: "):
            verify_artifact(folder)


def test_tensors_may_not_overlap_or_leave_gaps(folder: Path) -> None:
    header = json.dumps({"a": {"data_offsets": [0, 4]}, "b": {"data_offsets": [6, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(IncompleteArtifact, match="gap or overlap at byte 4"):
        verify_artifact(folder)


def test_an_adapter_needs_its_own_files_only(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(IncompleteArtifact, match=r"adapter_model\.safetensors"):
        verify_artifact(tmp_path, WeightsKind.LORA)
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors(4))
    assert verify_artifact(tmp_path, WeightsKind.LORA)
    assert tokenizer_digest(tmp_path) == chat_template_digest(tmp_path) == ""


def test_a_chat_template_lies_in_its_own_file_or_in_the_tokenizer_configuration(folder: Path) -> None:
    embedded = chat_template_digest(folder)
    (folder / "chat_template.jinja").write_text("{{ other }}")
    assert len(embedded) == 64
    assert chat_template_digest(folder) not in ("", embedded)


def test_artifact_paths() -> None:
    assert artifact_path("file:///var/lib/my%20model") == Path("/var/lib/my model")
    assert artifact_path("file://localhost/models") == Path("/models")


@pytest.mark.parametrize(
    "uri",
    [
        "/models",
        "s3://bucket/x",
        "file://host/x",
        "file:relative",
        "hf:org/x",
        "",
        "file:///a%00b",
        "file://[/x",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(UnsupportedArtifact, match="artifact "):
        artifact_path(uri)
