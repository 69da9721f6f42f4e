"""How a server is started, and which settings make no sense."""

import itertools
from pathlib import Path

import pytest
from pydantic import ValidationError

from leyden_inference.errors import LoadFailed
from leyden_inference.settings import InferenceSettings, VllmSettings
from leyden_inference.vllm.build import build_vllm
from leyden_inference.vllm.process import command_of, environment_of


def settings(**changes: object) -> InferenceSettings:
    fields = {"engine": "vllm", "policies": ["p"], **changes}
    return InferenceSettings.model_validate(fields)


def test_the_command_has_folder_options_and_the_users_arguments_last() -> None:
    vllm = VllmSettings(command=["vllm", "serve"], args=["--dtype", "float32"], max_loras=4, max_lora_rank=16)
    command = command_of(settings(vllm=vllm, context=512, max_batch=8), Path("/models/v1"), 9000, "leyden-1")
    assert command[:3] == ["vllm", "serve", "/models/v1"]
    assert command[-2:] == ["--dtype", "float32"]
    pairs = dict(itertools.pairwise(command))
    assert pairs["--port"] == "9000"
    assert pairs["--served-model-name"] == "leyden-1"
    assert pairs["--max-num-seqs"] == "8"
    assert pairs["--max-model-len"] == "512"
    assert (pairs["--max-loras"], pairs["--max-lora-rank"]) == ("4", "16")
    assert "--enable-lora" in command


def test_without_adapters_nothing_is_said_of_them() -> None:
    command = command_of(settings(), Path("/m"), 1, "n")
    assert not [part for part in command if "lora" in part]


def test_a_server_gets_no_settings_or_secrets_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_KAFKA_SASL_PASSWORD", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = environment_of({"VLLM_CPU_KVCACHE_SPACE": "1"})
    assert not [name for name in environment if name.startswith("LEYDEN_")]
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    inside = Path(environment["PYTHONPATH"].split(":")[0])
    assert (inside / "leyden_vllm.py").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policies": []}, "name one policy in POLICIES"),
        ({"policies": ["a", "b"]}, "name one policy in POLICIES"),
        ({"follow": False}, "serves one folder"),
    ],
)
def test_a_server_has_one_model(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**changes)


async def test_a_folder_without_a_version_in_its_name_is_refused(tmp_path: Path) -> None:
    chosen = settings(follow=False, policies=[], models=[{"name": "mine", "path": tmp_path}], port=0)
    with pytest.raises(LoadFailed, match="policy@version"):
        await build_vllm(chosen)
