"""Dashboard and alerts: generated as committed, parsed by a real PromQL parser, about metrics that exist."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, Histogram

SERVICES = ("gateway", "runner", "reward", "credit", "registry", "learner", "inference")
DECLARING = (
    "leyden_platform.messaging",
    "leyden_platform.database",
    *(f"leyden_{name}.metrics" for name in SERVICES),
)
SCRAPED = {"job", "instance", "product"}
PROMETHEUS_OWN = {"up": set[str]()}


@pytest.fixture(scope="module")
def dashboard(root: Path) -> dict[str, Any]:
    """The committed dashboard."""
    board: dict[str, Any] = json.loads((root / "deploy/grafana/dashboards/leyden.json").read_text())
    return board


@pytest.fixture(scope="module")
def rules(root: Path) -> list[dict[str, Any]]:
    """The committed alert rules."""
    groups = yaml.safe_load((root / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """The labels of every series that our code declares, by the series' name."""
    for module in DECLARING:
        importlib.import_module(module)
    return {
        name: set(getattr(collector, "_labelnames", ())) | ({"le"} if name.endswith("_bucket") else set())
        for name, collector in REGISTRY._names_to_collectors.items()
        if not (name.endswith("_sum") and _observes_negative(collector))
    }


def _observes_negative(collector: Any) -> bool:
    """A histogram with negative bounds exposes no sum, since a sum that falls is no counter."""
    return isinstance(collector, Histogram) and collector._upper_bounds[0] < 0


def expressions(dashboard: dict[str, Any], rules: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Where an expression stands, and the expression with Grafana's variables filled in."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$policy", ".*")
    for rule in rules:
        yield rule["alert"], rule["expr"]


def selectors(expression: Any) -> Iterator[tuple[str, set[str]]]:
    """Every metric of a parsed expression with the labels its matchers name."""
    match expression:
        case promql_parser.VectorSelector():
            yield expression.name or "", {matcher.name for matcher in expression.matchers.matchers}
        case promql_parser.MatrixSelector():
            yield from selectors(expression.vector_selector)
        case promql_parser.BinaryExpr():
            yield from selectors(expression.lhs)
            yield from selectors(expression.rhs)
        case promql_parser.Call():
            for argument in expression.args:
                yield from selectors(argument)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from selectors(expression.expr)


def grouped_by(expression: str) -> Iterator[tuple[set[str], Any]]:
    """Every aggregation of an expression: the labels it keeps, and what it aggregates."""
    found = [promql_parser.parse(expression)]
    while found:
        node = found.pop()
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            yield set(node.modifier.labels), node.expr
        children = [getattr(node, name, None) for name in ("expr", "lhs", "rhs")]
        found += [child for child in children if child is not None]
        found += getattr(node, "args", None) or []


def test_the_committed_files_are_what_the_generator_writes(output: Callable[..., str]) -> None:
    """Regenerate with ``python deploy/grafana/build.py``."""
    assert output("python", "deploy/grafana/build.py", "--check") == ""


def test_every_metric_exists_in_code(
    dashboard: dict[str, Any], rules: list[dict[str, Any]], declared: dict[str, set[str]]
) -> None:
    """With the labels that matchers and groupings use."""
    known = declared | PROMETHEUS_OWN
    problems = []
    for where, expression in expressions(dashboard, rules):
        for metric, labels in selectors(promql_parser.parse(expression)):
            if metric not in known:
                problems.append(f"{where}: no metric {metric}")
            elif unknown := labels - known[metric] - SCRAPED:
                problems.append(f"{where}: {metric} has no label {unknown}")
        for labels, inner in grouped_by(expression):
            for metric, _ in selectors(inner):
                if unknown := labels - known.get(metric, labels) - SCRAPED:
                    problems.append(f"{where}: {metric} has no label {unknown}")
    assert problems == []


def test_a_legend_names_only_labels_that_its_expression_keeps(dashboard: dict[str, Any]) -> None:
    """Otherwise Grafana shows the template's braces."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            kept = [labels for labels, _ in grouped_by(target["expr"].replace("$__rate_interval", "5m"))]
            assert all(wanted <= labels | {"le"} for labels in kept), (panel["title"], target["expr"])


def test_every_service_has_a_place_on_the_dashboard(
    dashboard: dict[str, Any], rules: list[dict[str, Any]]
) -> None:
    """The loop is one picture: no service's numbers are missing from it."""
    shown = {
        metric
        for where, expression in expressions(dashboard, rules)
        for metric, _ in selectors(promql_parser.parse(expression))
    }
    missing = {name for name in SERVICES if not any(metric.startswith(f"leyden_{name}_") for metric in shown)}
    assert missing == set()
    assert {"leyden_consumer_lag", "leyden_deadletters_total", "leyden_outbox_pending"} <= shown


def test_panels_fill_the_grid_without_overlap(dashboard: dict[str, Any]) -> None:
    """24 columns; every panel explained."""
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not covered & cells, panel["title"]
        cells |= covered
        assert panel["type"] == "row" or panel["description"], panel["title"]


def test_alerts_say_what_is_wrong_and_how_bad_it_is(rules: list[dict[str, Any]]) -> None:
    """A page at night needs a sentence and a severity."""
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_alerts_are_documented(root: Path, rules: list[dict[str, Any]]) -> None:
    """docs/observability.md has a line on what to do about each."""
    page = (root / "docs/observability.md").read_text()
    assert [rule["alert"] for rule in rules if rule["alert"] not in page] == []


def test_grafana_finds_the_dashboard_where_compose_mounts_it(root: Path) -> None:
    """Provider path, mount and data source agree."""
    provider = yaml.safe_load((root / "deploy/grafana/provisioning/dashboards/leyden.yml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in (root / "docker-compose.yml").read_text()


def test_this_environment_can_import_what_it_checks() -> None:
    """Guards the guard: the registry of metrics is not empty."""
    assert sum(name.startswith("leyden_") for name in REGISTRY._names_to_collectors) > 50, sys.path


def test_every_alert_has_a_case_in_which_it_fires(root: Path, rules: list[dict[str, Any]]) -> None:
    cases = yaml.safe_load((root / "tests/data/alerts_test.yml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    fired = {check["alertname"] for check in checks if check["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")
def test_alerts_fire_when_they_must(root: Path) -> None:
    tested = subprocess.run(
        ["promtool", "test", "rules", "tests/data/alerts_test.yml"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
