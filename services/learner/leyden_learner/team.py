"""The ranks that train one policy together. Every one does the same in the same order, on its own share.

Without a process group there is one, which has everything.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

T = TypeVar("T")


class Team:
    """The ranks of the process group that this process is in; alone without one."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that writes for all."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What every rank has, in their order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def collect(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the ranks hold together, whole, on the one that leads; nothing on the others.

        Names of the same tensor name the same one afterwards.
        """
        collected: dict[str, Tensor] = {}
        seen: dict[int, Tensor] = {}
        for name, value in held.items():
            if id(value) not in seen:
                seen[id(value)] = self._whole(value)
            if self.leads:
                collected[name] = seen[id(value)]
        return collected

    def _whole(self, value: Tensor) -> Tensor:
        if not isinstance(value, DTensor):
            return value.detach()
        full: Tensor = value.full_tensor().detach()
        return full.cpu() if self.leads else full.new_empty(0)

    def shard(self, whole: nn.Module, parts: Iterable[nn.Module]) -> None:
        """Let every rank hold a share of each parameter, put together for as long as it is needed (FSDP2).

        ``parts`` are what is put together at a time. Gradients of the ranks are added up, not averaged: what
        a token weighs already says its part in the step.
        """
        if self.size == 1:
            return
        for module in (*parts, whole):
            fully_shard(module)
        for module in whole.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
