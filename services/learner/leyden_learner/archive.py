"""Where finished checkpoints are kept for others: in the folder they were written to, or an object store."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from leyden_learner.checkpoints import CheckpointStore, is_ours
from leyden_platform.artifacts import IncompleteArtifact, artifact_path, is_trainer_state
from leyden_platform.objects import MANIFEST, Manifest, ObjectFolder, fetch_whole, upload_artifact


class Archive(Protocol):
    """The checkpoints of one policy and run, by name. Methods raise ``StoreFailed`` or ``OSError``."""

    def uri(self, name: str) -> str:
        """The artifact of this name."""
        ...

    async def keep(self, folder: Path) -> str:
        """Make a finished checkpoint readable for others, whole or not at all; its URI."""
        ...

    async def folder(self, uri: str, digest: str) -> Path:
        """A kept checkpoint with its trainer state, on this machine. Also raises ``IncompleteArtifact``."""
        ...

    async def names(self) -> list[str]:
        """Everything of ours that is there, finished or not."""
        ...

    async def delete(self, name: str) -> None:
        """From the first moment on it is no checkpoint any more."""
        ...

    async def delete_trainer_state(self, name: str) -> None:
        """What a trainer would go on from; the weights stay."""
        ...

    async def delete_unknown(self, names: Collection[str]) -> list[str]:
        """Delete what a crash left behind, of these that no committed step names; which those were."""
        ...


class FolderArchive:
    """Checkpoints stay where they were written, on a volume that others read."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    def uri(self, name: str) -> str:
        """The artifact of this name."""
        return (self._store.folder / name).as_uri()

    async def keep(self, folder: Path) -> str:
        """Nothing is left to do."""
        return folder.as_uri()

    async def folder(self, uri: str, _digest: str) -> Path:
        """The checkpoint itself."""
        return artifact_path(uri)

    async def names(self) -> list[str]:
        """Finished checkpoints."""
        return await asyncio.to_thread(self._store.names)

    async def delete(self, name: str) -> None:
        """It loses its name first."""
        await asyncio.to_thread(self._store.delete, name)

    async def delete_trainer_state(self, name: str) -> None:
        """Delete that subfolder."""
        await asyncio.to_thread(self._store.delete_trainer_state, name)

    async def delete_unknown(self, names: Collection[str]) -> list[str]:
        """This process is the only one here, so all of them were left behind."""
        for name in names:
            await self.delete(name)
        return [*names, *await asyncio.to_thread(self._store.remove_unfinished)]


class ObjectArchive:
    """Checkpoints are uploaded; the newest stays in the folder it was written to."""

    def __init__(self, store: CheckpointStore, root: ObjectFolder, *, unfinished_after_s: float) -> None:
        self._store, self._root = store, root
        self._unfinished_after = timedelta(seconds=unfinished_after_s)

    def uri(self, name: str) -> str:
        """The artifact of this name."""
        return f"{self._root.url}/{name}"

    async def keep(self, folder: Path) -> str:
        """Upload it, then let go of older ones on this machine."""
        await upload_artifact(folder, self._root.child(folder.name))
        await asyncio.to_thread(self._forget, folder.name)
        return self.uri(folder.name)

    async def folder(self, uri: str, digest: str) -> Path:
        """Fetched, unless this machine has it still."""
        folder = self._store.folder / uri.rsplit("/", 1)[-1]

        def check(manifest: Manifest) -> None:
            if manifest.digest != digest:
                raise IncompleteArtifact("digest", uri, f"holds {manifest.digest}, recorded was {digest}")

        await fetch_whole(self._root.child(folder.name), folder, check)
        await asyncio.to_thread(self._forget, folder.name)
        return folder

    async def names(self) -> list[str]:
        """Every prefix that a checkpoint was, or is being, uploaded below."""
        return [name for name in await self._root.folders() if is_ours(name)]

    async def delete(self, name: str) -> None:
        """The manifest goes first, and with it the checkpoint."""
        folder = self._root.child(name)
        await folder.delete([MANIFEST])
        await folder.delete([item.name for item in await folder.objects()])

    async def delete_trainer_state(self, name: str) -> None:
        """The manifest still names these files; they are not part of what is served."""
        folder = self._root.child(name)
        await folder.delete([item.name for item in await folder.objects() if is_trainer_state(item.name)])

    async def delete_unknown(self, names: Collection[str]) -> list[str]:
        """Those that nobody has written to for long: another learner's upload may be on its way."""
        await asyncio.to_thread(self._store.remove_unfinished)
        old = [name for name in names if await self._is_old(name)]
        for name in old:
            await self.delete(name)
        return old

    async def _is_old(self, name: str) -> bool:
        written = [item.modified_at for item in await self._root.child(name).objects()]
        return not written or datetime.now(UTC) - max(written) >= self._unfinished_after

    def _forget(self, newest: str) -> None:
        for name in self._store.names():
            if name != newest:
                self._store.delete(name)
