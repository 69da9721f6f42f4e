"""Which backend a learner gets, and what is said when it cannot have it. On verl itself: make test-verl."""

from typing import Any

import pytest
from pydantic import ValidationError

from leyden_learner.app import TorchTrainers, trainers_of
from leyden_learner.settings import LearnerSettings
from leyden_learner.verl_backend.factory import VerlMissing
from leyden_schemas import WeightsKind


def test_torch_unless_said_otherwise() -> None:
    assert isinstance(trainers_of(LearnerSettings(policy="tiny")), TorchTrainers)


def test_a_missing_verl_is_named_with_what_to_install() -> None:
    with pytest.raises(VerlMissing, match=r"needs verl, .*install leyden\[verl\].*constraints-verl\.txt"):
        trainers_of(LearnerSettings(policy="tiny", backend="verl"))


@pytest.mark.parametrize("backend", ["torch", "verl"])
def test_publishing_an_adapter_that_is_not_trained_is_refused_with_a_remedy(backend: Any) -> None:
    with pytest.raises(ValidationError, match=r"no adapter; set LEYDEN_LEARNER_LORA_RANK, or leave .*merged"):
        LearnerSettings(policy="tiny", publish="adapter", backend=backend)
    chosen = LearnerSettings(policy="tiny", publish="adapter", backend=backend, lora_rank=8)
    assert (chosen.published_kind, chosen.adapter_alpha) == (WeightsKind.LORA, 16.0)
    assert LearnerSettings(policy="tiny", lora_rank=8).published_kind is WeightsKind.FULL


def test_a_bound_that_verl_lacks_is_refused_with_a_remedy() -> None:
    chosen: dict[str, Any] = {"policy": "tiny", "loss": "gspo", "dual_clip": 3.0}
    assert LearnerSettings(**chosen, backend="torch").recipe.dual_clip == 3.0
    with pytest.raises(
        ValidationError, match=r"dual_clip 3: verl's GSPO has none.*LEYDEN_LEARNER_BACKEND=torch"
    ):
        LearnerSettings(**chosen, backend="verl")
    assert LearnerSettings(policy="tiny", objective="gspo", backend="verl").backend == "verl"
