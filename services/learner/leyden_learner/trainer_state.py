"""What a trainer goes on from, beside what is published: optimizer, RNG, step, and other weights, by name.

Every backend writes and reads the same file, so that one goes on where another stopped. What is sharded is
written whole, so that any number of ranks goes on.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from leyden_learner.team import Team
from leyden_platform.artifacts import TRAINER_STATE

_FILE = "state.safetensors"
_WEIGHT, _AVERAGE = "weight", "average"
_OTHER_LORA = "go on with the LEYDEN_LEARNER_LORA_… settings it was made with, or start a new run"


class TrainerStateMissing(RuntimeError):
    """A checkpoint has no optimizer state, so training cannot go on from it exactly."""


def write_state(folder: Path, state: Mapping[str, Tensor], step: int) -> None:
    """Put a state into the trainer's part of a checkpoint."""
    own = folder / TRAINER_STATE
    own.mkdir()
    save_file(dict(state), own / _FILE, metadata={"step": str(step)})


def pack_state(
    parameters: Mapping[str, Tensor],
    unpublished: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    averages: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """All there is of a trainer, on the rank that leads.

    ``parameters`` are those it trains, ``unpublished`` those of them that what is published does not tell.
    """
    kept = optimizer.state_dict()["state"]
    held = {
        f"{name}:{slot}": value
        for name, index in _order(parameters, optimizer).items()
        for slot, value in kept.get(index, {}).items()
    }
    held |= {f"{name}:{_WEIGHT}": value for name, value in unpublished.items()}
    held |= {f"{name}:{_AVERAGE}": value for name, value in (averages or {}).items()}
    state = Team().collect(held)
    state["rng:cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        state["rng:cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_state(
    folder: Path,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    averages: Mapping[str, Tensor] | None = None,
) -> int:
    """Bring a trainer to where it was when it wrote this checkpoint, and tell its step.

    Averages that were not kept then begin with the weights. Raises ``TrainerStateMissing``.
    """
    path = folder / TRAINER_STATE / _FILE
    if not path.is_file():
        raise TrainerStateMissing(f"{path} is missing; restore it, or start a new run from the version")
    order = _order(parameters, optimizer)
    slots: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as stored:
        step = int(stored.metadata()["step"])
        stored_keys = set(stored.keys())
        for key in sorted(stored_keys):
            name, slot = key.rsplit(":", 1)
            if name == "rng":
                continue
            if name not in order:
                raise TrainerStateMissing(f"{path} is of {name}, which is not trained here; {_OTHER_LORA}")
            if slot == _WEIGHT:
                _take(name, parameters[name], stored.get_tensor(key), path)
            elif slot != _AVERAGE:
                slots.setdefault(order[name], {})[slot] = spread(parameters[name], stored.get_tensor(key))
        for name, average in (averages or {}).items():
            key = f"{name}:{_AVERAGE}"
            kept = stored.get_tensor(key) if key in stored_keys else None
            _take(name, average, parameters[name] if kept is None else kept, path)
        torch.set_rng_state(stored.get_tensor("rng:cpu"))
        if device.type == "cuda" and "rng:cuda" in stored_keys:
            torch.cuda.set_rng_state(stored.get_tensor("rng:cuda"), device)
    if step and len(slots) < len(order):
        raise TrainerStateMissing(f"{path} lacks {len(order) - len(slots)} parameters; {_OTHER_LORA}")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
    return step


def whole(value: Tensor) -> Tensor:
    """The tensor with what other processes hold of it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _order(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """The optimizer's number of each parameter; it may hold frozen ones as well."""
    every = (parameter for group in optimizer.param_groups for parameter in group["params"])
    numbers = {id(parameter): index for index, parameter in enumerate(every)}
    return {name: numbers[id(parameter)] for name, parameter in parameters.items()}


def spread(parameter: Tensor, value: Tensor) -> Tensor:
    """The value over processes as the parameter is; scalars, such as the optimizer's own step, are not."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)


@torch.no_grad()
def _take(name: str, own: Tensor, value: Tensor, path: Path) -> None:
    if own.shape != value.shape:
        raise TrainerStateMissing(f"{path} has {name} as {tuple(value.shape)}; {_OTHER_LORA}")
    own.copy_(spread(own, value))
