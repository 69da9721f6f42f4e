"""Links of the documentation lead somewhere; the gateway's pages name what it has, no more and no less."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from leyden_gateway import metrics
from leyden_gateway.attribution.keys import KeyGrant
from leyden_gateway.control import admin
from leyden_gateway.control.settings import TenantLimits
from leyden_gateway.errors import ApiError
from leyden_gateway.exchange.dialects import ROUTES
from leyden_gateway.feedback.desk import ROUTE as FEEDBACK
from leyden_gateway.routing.settings import ExternalSettings
from leyden_gateway.settings import GatewaySettings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
GATEWAY = sorted(ROOT.glob("docs/gateway*.md"))
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
CODE = re.compile(r"`([^`]+)`")
PREFIX = "LEYDEN_GATEWAY_"

Row = list[str]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_point_to_files_and_headings(page: Path) -> None:
    lost = []
    for target, heading in LINK.findall(page.read_text()):
        file = page.parent / target if target else page
        if not file.exists() or (
            heading and file.suffix == ".md" and heading not in anchors(file.read_text())
        ):
            lost.append(f"{target}#{heading}")
    assert lost == []


def anchors(text: str) -> list[str]:
    """What the headings of a page can be linked as, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_links_are_found() -> None:
    text = "[a](b.md), ![c](d/e.png) [f](g.md#h) [i](https://j) [k](#l)"
    assert LINK.findall(text) == [("b.md", ""), ("d/e.png", ""), ("g.md", "h"), ("", "l")]


def test_headings_become_anchors() -> None:
    assert anchors("# A b\ntext\n## Settings (`LEYDEN_X_…`)\n") == ["a-b", "settings-leyden_x_"]


def test_every_page_is_listed() -> None:
    listed = {target for target, _ in LINK.findall((ROOT / "docs/README.md").read_text())}
    assert {page.name for page in ROOT.glob("docs/*.md")} - listed == {"README.md"}
    decisions = {target for target, _ in LINK.findall((ROOT / "docs/adr/README.md").read_text())}
    assert {page.name for page in ROOT.glob("docs/adr/*.md")} - decisions == {"README.md"}


def tables(section: str) -> Iterator[Row]:
    """The cells of every table row in the gateway's sections of this name."""
    for page in GATEWAY:
        for part in re.split(r"^## ", page.read_text(), flags=re.MULTILINE):
            if part.startswith(section):
                rows = re.findall(r"^\| (`.*) \|$", part, re.MULTILINE)
                yield from (re.split(r" (?<!\\)\| ", row.replace("| | ", "|  | ")) for row in rows)


def settings(model: type[BaseSettings]) -> Iterator[tuple[str, Any]]:
    """Every variable of the gateway's own, without its prefix, and its default."""
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseSettings):
            yield from settings(nested)
        elif str(model.model_config.get("env_prefix", "")) == PREFIX:
            default = field.get_default(call_default_factory=True)
            yield name.upper(), None if default is PydanticUndefined else default


def shown(default: Any) -> str:
    """A default as the tables write it."""
    match default:
        case None:
            return "none"
        case bool():
            return str(default).lower()
        case float() | int():
            for unit, name in ((1024**3, "GiB"), (1024**2, "MiB")):
                if default >= unit and not default % unit:
                    return f"{default // unit} {name}"
            return f"{default:g}" if isinstance(default, float) else str(default)
        case tuple():
            return ", ".join(default)
        case _:
            return str(default)


def test_every_setting_of_the_gateway_is_listed_once_with_its_default() -> None:
    listed = [
        (key, default)
        for keys, defaults, *_ in tables("Settings")
        for key, default in zip(CODE.findall(keys), defaults.replace("`", "").split(", "), strict=True)
    ]
    assert sorted(listed) == sorted((name, shown(default)) for name, default in settings(GatewaySettings))


def test_every_metric_of_the_gateway_is_listed_once_with_its_labels() -> None:
    listed = [
        (name, tuple(labels.split(", ")) if labels else ())
        for names, labels, *_ in tables("Metrics")
        for name in CODE.findall(names)
    ]
    assert sorted(listed) == sorted((_exposed(metric), metric._labelnames) for metric in declared())


def declared() -> list[MetricWrapperBase]:
    """Every metric of the gateway's."""
    return [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]


def _exposed(metric: MetricWrapperBase) -> str:
    return f"{metric._name}_total" if metric._type == "counter" else metric._name


def _named(pattern: str) -> Counter[str]:
    return Counter(chain.from_iterable(re.findall(pattern, page.read_text()) for page in GATEWAY))


def test_the_pages_name_no_metric_and_no_variable_that_does_not_exist() -> None:
    exposed = {_exposed(metric) for metric in declared()}
    assert set(_named(r"leyden_gateway_[a-z_]+[a-z]")) - exposed == set()
    assert set(_named(rf"{PREFIX}([A-Z_]+[A-Z])")) - {name for name, _ in settings(GatewaySettings)} == set()


def _errors(error: type[ApiError]) -> Iterator[type[ApiError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _errors(kind)


def test_every_error_is_explained() -> None:
    assert admin.NotAdmin in _errors(ApiError)
    words = _named(r"`([^`\s]+)`")
    assert {error.reason for error in _errors(ApiError)} - set(words) == set()


@pytest.mark.parametrize("model", [KeyGrant, TenantLimits, ExternalSettings])
def test_every_field_of_a_json_setting_is_explained(model: type[BaseModel]) -> None:
    words = set(_named(r'["`](\w+)["`]'))
    assert model.model_fields.keys() - words == set()


def test_every_route_is_listed() -> None:
    words: Sequence[str] = [*_named(r"`(?:POST|GET) (/v1/[a-z_/]+)`")]
    assert set(words) == {*ROUTES, FEEDBACK, "/v1/models"}


def test_modules_of_tests_have_names_of_their_own() -> None:
    """Else pytest, which imports them by their names, collects no suite that holds two."""
    names = Counter(path.name for path in ROOT.glob("tests/**/test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
