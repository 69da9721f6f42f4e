"""What an artifact in an object store consists of. Written last, it makes the artifact exist.

A store has no rename: files appear one by one. A prefix without a manifest is therefore not an artifact yet,
or not one any more.
"""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from leyden_platform.artifacts import is_trainer_state, listing_digest

MANIFEST = "leyden-manifest.json"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ManifestFile(_Value):
    """One file, by its path in the artifact."""

    name: str = Field(min_length=1)
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @property
    def served(self) -> bool:
        """Whether it is part of what is served, and of the digest."""
        return not is_trainer_state(self.name)


class Manifest(_Value):
    """All files; ``digest`` is that of the folder they make (``leyden_platform.artifacts``)."""

    digest: str
    files: tuple[ManifestFile, ...]

    @classmethod
    def of(cls, files: Sequence[ManifestFile]) -> Self:
        """With the digest worked out."""
        return cls(digest=_digest(files), files=tuple(files))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if outside := [file.name for file in self.files if not _inside(file.name)]:
            raise ValueError(f"names a file outside the artifact: {outside[0]}")
        if (found := _digest(self.files)) != self.digest:
            raise ValueError(f"says digest {self.digest}, its files have {found}")
        return self


def _digest(files: Sequence[ManifestFile]) -> str:
    return listing_digest((file.name, file.sha256) for file in files)


def _inside(name: str) -> bool:
    return not name.startswith("/") and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))
