"""What a running stack says about itself, in files that outlive whoever started it."""

import os
from enum import StrEnum
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field


class Phase(StrEnum):
    """Where the supervisor is."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class ProcessState(BaseModel):
    """One process of the stack."""

    model_config = ConfigDict(frozen=True)

    pid: int
    restarts: int = 0
    ops_port: int | None = None
    failed: str | None = Field(default=None, description="Why it was left down, with its last words.")


class Endpoints(BaseModel):
    """Where to reach what the user talks to."""

    model_config = ConfigDict(frozen=True)

    kafka: str
    database: str
    gateway: str
    registry: str
    inference: str


class StackState(BaseModel):
    """The supervisor's own report, rewritten at every change."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float = Field(description="When that process was created, which tells it from a later one.")
    phase: Phase
    error: str | None = None
    endpoints: Endpoints
    processes: dict[str, ProcessState] = Field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class StackFolder:
    """The files of one stack."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.config = self.directory / "stack.json"
        self.state = self.directory / "state.json"
        self.lock = self.directory / "stack.lock"
        self.starting = self.directory / "start.lock"
        self.logs = self.directory / "logs"
        self.checkpoints = self.directory / "checkpoints"
        self.database = self.directory / "database-folder"
        self.secret = self.directory / "token-secret"

    def create(self) -> None:
        """Make the folders that are missing."""
        for folder in (self.directory, self.logs, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)

    def log(self, name: str) -> Path:
        """Where a process writes what it prints."""
        return self.logs / f"{name}.log"

    def read(self) -> StackState | None:
        """The last report, or None when there is none."""
        try:
            return StackState.model_validate_json(self.state.read_bytes())
        except FileNotFoundError:
            return None

    def write(self, state: StackState) -> None:
        """Replace the report atomically."""
        temporary = self.state.with_suffix(f".{os.getpid()}")
        temporary.write_text(state.model_dump_json(indent=1))
        temporary.replace(self.state)
