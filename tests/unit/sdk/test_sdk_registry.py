"""The registry's client: whatever is wrong with folder, address or answer is one kind of error, and named."""

from pathlib import Path

import httpx
import pytest

from leyden.registry import RegistryClient, RegistryFailed

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"


def test_an_incomplete_folder_is_named_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RegistryFailed, match=rf"{tmp_path} cannot be imported: .*\.json"):
        RegistryClient("http://registry").import_version("p", tmp_path)


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(RegistryFailed, match="is no URL of a registry"):
        RegistryClient("http://registry:port").policies()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(200, text="<html>"), "what answers at http://registry is no registry"),
        (httpx.Response(502, text="<html>"), "refused GET /v1/policies: HTTP 502: <html>"),
        (httpx.Response(404, json={"error": {"message": "there is no policy p"}}), "there is no policy p"),
    ],
)
def test_answers_that_are_no_help_are_told(
    answer: httpx.Response, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx, "request", lambda *_arguments, **_options: answer)
    with pytest.raises(RegistryFailed, match=said):
        RegistryClient("http://registry").policies()
