"""``leyden models`` and object stores: uploaded, then registered by URL; versions are named in full."""

from pathlib import Path

import pytest
from object_store import Bucket

from leyden.cli.console import Failed
from leyden.cli.models import _policy_version
from leyden.registry import RegistryFailed
from leyden.uploading import upload
from leyden_platform.artifacts import artifact_digest

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"


def test_a_folder_is_uploaded_to_a_place_that_its_content_decides(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYDEN_OBJECTS_ALLOW_HTTP", "true")
    url, digest = upload("calculator", SEED, f"{bucket.url}/models/")
    assert digest == artifact_digest(SEED)
    assert url == f"{bucket.url}/models/calculator/imported/{digest[:16]}"
    assert upload("calculator", SEED, f"{bucket.url}/models") == (url, digest)


def test_what_cannot_be_uploaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryFailed, match="there is no such folder"):
        upload("calculator", tmp_path / "none", "s3://bucket")
    with pytest.raises(RegistryFailed, match="write s3://bucket/prefix"):
        upload("calculator", SEED, "http://bucket")


def test_a_version_is_named_with_its_policy() -> None:
    assert _policy_version("calculator@12") == ("calculator", 12)
    for text in ("calculator", "@1", "calculator@new"):
        with pytest.raises(Failed, match="write POLICY@VERSION"):
            _policy_version(text)
