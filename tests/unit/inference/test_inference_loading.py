"""Folders that cannot be served are refused by reason; equal tokenizers are loaded once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from leyden_inference.errors import LoadFailed
from leyden_inference.loading import Loader
from leyden_inference.probing import computed_probe
from leyden_platform.artifacts import verify_artifact
from leyden_platform.clock import SystemClock
from leyden_platform.probe import Probe, write_probe
from leyden_schemas import ModelPublished, WeightsKind

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SEED, tmp_path / "model"))


def published(folder: Path, **changes: object) -> ModelPublished:
    values: dict[str, object] = {
        "event_id": uuid4(),
        "policy": "calculator",
        "version": 3,
        "occurred_at": SystemClock().now(),
        "artifact": folder.as_uri(),
        "digest": verify_artifact(folder),
    }
    return ModelPublished.model_validate({**values, **changes})


def edit(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_weights_that_answer_otherwise_than_the_learners_did_are_refused(folder: Path) -> None:
    true = computed_probe(folder)
    write_probe(folder, true)
    Loader().load_published(published(folder))
    write_probe(folder, Probe(true.token_ids, tuple(value - 0.1 for value in true.logprobs)))
    with pytest.raises(LoadFailed, match=r"0\.1 nats off") as raised:
        Loader().load_published(published(folder))
    assert raised.value.reason == "probe"
    write_probe(folder, Probe((1, 100_000), (-1.0,)))
    with pytest.raises(LoadFailed, match="beyond the vocabulary"):
        Loader().load_published(published(folder))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


BREAKS: list[tuple[str, Callable[[Path], object]]] = [
    ("missing", lambda folder: (folder / "tokenizer.json").unlink()),
    ("missing", lambda folder: (folder / "model.safetensors").unlink()),
    ("missing", shutil.rmtree),
    ("truncated", truncate),
    ("malformed", lambda folder: (folder / "config.json").write_text("{")),
    ("empty", lambda folder: (folder / "config.json").write_text("")),
    ("unsupported", lambda folder: edit(folder, model_type="mamba")),
    ("unsupported", lambda folder: edit(folder, hidden_size=64)),
    ("unsupported", lambda folder: edit(folder, num_attention_heads=0)),
    ("unsupported", lambda folder: edit(folder, head_dim=-1)),
    ("unsupported", lambda folder: edit(folder, rope_parameters="x")),
    ("unsupported", lambda folder: (folder / "generation_config.json").write_text("[]")),
    ("unsupported", lambda folder: (folder / "tokenizer.json").write_text("{}")),
    ("unsupported", lambda folder: (folder / "chat_template.jinja").write_text("{% if %}")),
]


@pytest.mark.parametrize(("reason", "break_it"), BREAKS)
def test_a_broken_folder_is_refused_by_reason(
    folder: Path, reason: str, break_it: Callable[[Path], object]
) -> None:
    break_it(folder)
    with pytest.raises(LoadFailed) as failure:
        Loader().load_folder(folder)
    assert failure.value.reason == reason
    assert str(folder) in str(failure.value)


def test_other_bytes_than_announced_are_refused(folder: Path) -> None:
    message = published(folder)
    (folder / "README.md").write_text("slipped in")
    with pytest.raises(LoadFailed) as failure:
        Loader().load_published(message)
    assert failure.value.reason == "digest"


def test_adapters_and_remote_artifacts_are_unsupported(folder: Path) -> None:
    for changes in ({"kind": WeightsKind.LORA}, {"artifact": "s3://bucket/model"}):
        with pytest.raises(LoadFailed) as failure:
            Loader().load_published(published(folder, **changes))
        assert failure.value.reason == "unsupported"


def test_what_is_announced_is_loaded_with_its_defaults(folder: Path) -> None:
    model = Loader(context=100).load_published(published(folder))
    assert model.eos == {2}
    assert model.defaults["max_new_tokens"] == 96
    assert model.decoder.context == 100
    assert model.text.template is not None


def test_equal_tokenizers_are_loaded_once_and_others_are_not(folder: Path) -> None:
    loader = Loader()
    first, again = loader.load_folder(SEED), loader.load_folder(folder)
    assert first.text is again.text
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert loader.load_folder(folder).text is not first.text


def test_a_loaded_model_survives_the_loss_of_its_folder(folder: Path) -> None:
    model = Loader().load_folder(folder)
    before = model.decoder.weights.embedding.sum().item()
    (folder / "model.safetensors").write_bytes(b"\0" * (folder / "model.safetensors").stat().st_size)
    assert model.decoder.weights.embedding.sum().item() == before
