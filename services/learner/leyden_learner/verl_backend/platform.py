"""The device that verl computes on. It ships accelerators only, so a CPU is described here, with gloo."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

# It probes for accelerators when it is imported, and warns when there are none.
os.environ.setdefault("VERL_LOGGING_LEVEL", "ERROR")

from verl.plugin.platform import PlatformRegistry, get_platform, set_platform
from verl.plugin.platform.platform_base import PlatformBase

_NAME = "leyden_cpu"


@PlatformRegistry.register(platform=_NAME)
class CpuPlatform(PlatformBase):  # type: ignore[misc]
    """A CPU as verl wants devices described; what only accelerators have does nothing."""

    @property
    def device_name(self) -> str:
        """As torch calls it."""
        return "cpu"

    @property
    def vendor_name(self) -> str:
        """Nobody's."""
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        """Torch's own."""
        return torch.cpu

    def is_available(self) -> bool:
        """Always."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Never found by probing: it is set where it is wanted."""
        return False

    def current_device(self) -> Any:
        """What tensors are moved to."""
        return "cpu"

    def device_count(self) -> int:
        """One."""
        return 1

    def set_device(self, device_index: int) -> None:
        """There is no choice."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Nothing runs ahead."""

    def manual_seed(self, seed: int) -> None:
        """Torch's generator of the CPU."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """The same one."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """There are none."""

    def empty_cache(self) -> None:
        """There is none."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """None to speak of."""
        return None, None

    def communication_backend_name(self) -> str:
        """Of torch.distributed."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """No variable hides it."""
        return "LEYDEN_NO_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """Unmarked."""
        yield

    def profiler_start(self) -> None:
        """Not profiled."""

    def profiler_stop(self) -> None:
        """Not profiled."""

    def ray_resource_name(self) -> str:
        """Ray has no part in this."""
        return "CPU"

    def ray_noset_envvars(self) -> list[str]:
        """None."""
        return []

    def is_ipc_supported(self) -> bool:
        """Not needed."""
        return False

    def cudart(self) -> Any:
        """None."""
        return None


def prepare(device: torch.device) -> None:
    """Make verl compute on this device, alone in its group. Before its engines are imported."""
    if device.type == "cpu":
        if not isinstance(get_platform(), CpuPlatform):
            set_platform(CpuPlatform())
        # The engines are registered for accelerators alone.
        os.environ["VERL_ENGINE_DEVICE"] = "cuda"
    if not dist.is_initialized():
        backend = get_platform().communication_backend_name()
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
