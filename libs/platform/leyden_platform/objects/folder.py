"""Objects below one URL: listed, read, written and deleted, every wait with a deadline."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from leyden_platform.artifacts import UnsupportedArtifact
from leyden_platform.objects import metrics
from leyden_platform.objects.errors import StoreFailed, StoreTimedOut
from leyden_platform.objects.settings import ObjectSettings

if TYPE_CHECKING:
    from obstore.store import ClientConfig

SCHEMES = ("s3", "gs", "az")


def is_object_url(uri: str) -> bool:
    """Whether a URI means an object store and not a folder."""
    return uri.split("://", 1)[0] in SCHEMES and "://" in uri


def object_url(uri: str) -> str:
    """The URL as it is kept: without a slash at its end. Raises ``UnsupportedArtifact``."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UnsupportedArtifact(f"{uri!r} is not a URL: {error}") from None
    inside = parts.path.removeprefix("/").removesuffix("/")
    odd = bool(inside) and {"", ".", ".."} & set(inside.split("/"))
    plain = not (odd or parts.query or parts.fragment or "@" in parts.netloc or set("\0%\\ ") & set(uri))
    if parts.scheme not in SCHEMES or not parts.netloc or not plain:
        raise UnsupportedArtifact(
            f"{uri!r}: write s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix"
        )
    return uri.rstrip("/")


@dataclass(frozen=True, slots=True)
class Stored:
    """One object, by its path below the folder."""

    name: str
    size: int
    modified_at: datetime


class ObjectFolder:
    """The objects below a URL. Methods raise ``StoreFailed``, ``StoreTimedOut`` or ``FileNotFoundError``."""

    def __init__(self, url: str, settings: ObjectSettings) -> None:
        self.url, self._settings = object_url(url), settings
        self._store = _open(self.url, settings)

    def child(self, name: str) -> "ObjectFolder":
        """The folder of this name inside."""
        return ObjectFolder(f"{self.url}/{name}", self._settings)

    async def folders(self) -> list[str]:
        """Names of the folders directly inside."""
        async with self._bounded("list"):
            found = await obstore.list_with_delimiter_async(self._store)
        return sorted(prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in found["common_prefixes"])

    async def objects(self) -> list[Stored]:
        """Everything inside, at any depth."""
        async with self._bounded("list"):
            chunks = [chunk async for chunk in obstore.list(self._store)]
        return [
            Stored(item["path"], item["size"], item["last_modified"]) for chunk in chunks for item in chunk
        ]

    async def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """An object, or ``length`` of its bytes."""
        async with self._bounded("look"):
            if length is None:
                content = bytes(await (await obstore.get_async(self._store, name)).bytes_async())
            else:
                content = bytes(await obstore.get_range_async(self._store, name, start=start, length=length))
        metrics.BYTES.labels("down").inc(len(content))
        return content

    async def write(self, name: str, content: bytes) -> None:
        """Write one small object; it appears whole."""
        async with self._bounded("upload"):
            await obstore.put_async(self._store, name, content)
        metrics.BYTES.labels("up").inc(len(content))

    async def upload(self, files: Mapping[str, Path]) -> None:
        """Write objects from files, one after the other, each in concurrent parts; each appears whole."""
        async with self._bounded("upload"):
            for name, file in files.items():
                await obstore.put_async(
                    self._store,
                    name,
                    file,
                    chunk_size=self._settings.part_bytes,
                    max_concurrency=self._settings.concurrency,
                )
                metrics.BYTES.labels("up").inc(file.stat().st_size)

    async def download(self, sizes: Mapping[str, int], folder: Path) -> None:
        """Read objects of known sizes into files below ``folder``, in concurrent parts; also ``OSError``."""
        slots = asyncio.Semaphore(self._settings.concurrency)

        async def part(name: str, start: int, length: int) -> None:
            async with slots:
                content = await obstore.get_range_async(self._store, name, start=start, length=length)
                await asyncio.to_thread(_write_at, folder / name, start, memoryview(content))
                metrics.BYTES.labels("down").inc(length)

        step = self._settings.part_bytes
        async with self._bounded("fetch"):
            try:
                async with asyncio.TaskGroup() as group:
                    for name, size in sizes.items():
                        (folder / name).parent.mkdir(parents=True, exist_ok=True)
                        (folder / name).touch()
                        for start in range(0, size, step):
                            group.create_task(part(name, start, min(step, size - start)))
            except* (BaseError, OSError) as group_of:
                raise _first(group_of) from None

    async def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone already do not matter."""
        if wanted := list(names):
            async with self._bounded("delete"):
                await obstore.delete_async(self._store, wanted)

    @asynccontextmanager
    async def _bounded(self, operation: str) -> AsyncIterator[None]:
        """The block within ``transfer_timeout_s``, timed, its failures counted and named."""
        limit_s, started_s = self._settings.transfer_timeout_s, monotonic()
        try:
            async with asyncio.timeout(limit_s):
                yield
            metrics.SECONDS.labels(operation).observe(monotonic() - started_s)
        except TimeoutError:
            text = f"{operation} took longer than {limit_s:g} s (LEYDEN_OBJECTS_TRANSFER_TIMEOUT_S)"
            raise self._failed(operation, StoreTimedOut(f"{self.url}: {text}")) from None
        except BaseError as error:
            raise self._failed(operation, _named(self.url, error)) from error

    def _failed(self, operation: str, error: StoreFailed) -> StoreFailed:
        metrics.FAILURES.labels(operation, error.reason).inc()
        return error


def _open(url: str, settings: ObjectSettings) -> ObjectStore:
    client: ClientConfig = {
        "allow_http": settings.allow_http,
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        "timeout": timedelta(seconds=settings.request_timeout_s),
    }
    try:
        if settings.ca_file:
            client["root_certificate"] = settings.ca_file.read_bytes()
        return from_url(
            url,
            client_options=client,
            retry_config={
                "max_retries": settings.max_retries,
                "retry_timeout": timedelta(seconds=settings.retry_timeout_s),
            },
        )
    except (BaseError, ValueError, OSError) as error:
        raise UnsupportedArtifact(f"{url}: {_first_line(error)}") from error


def _named(url: str, error: BaseError) -> StoreFailed:
    """obstore has one type for all that goes wrong with a request; a timeout is told by its cause."""
    text = f"{url}: {_first_line(error)}"
    return StoreTimedOut(f"{text}: timed out") if "TimedOut" in str(error) else StoreFailed(text)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0].strip()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _write_at(file: Path, start: int, content: memoryview) -> None:
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(content)
