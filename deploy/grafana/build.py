"""Writes the dashboard, and the chart's copies of it and of the alert rules.

``python deploy/grafana/build.py`` regenerates the committed files; with ``--check`` it writes nothing and
exits 1 when one is out of date.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

if TYPE_CHECKING:
    from deploy.grafana.panels import SECTIONS, Chart, Section
else:  # as a script, the folder of this file is where imports start
    from panels import SECTIONS, Chart, Section

DEPLOY = Path(__file__).resolve().parents[1]
CHART_FILES = DEPLOY / "helm" / "leyden" / "files"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
NUMBER_HEIGHT, LINES_HEIGHT = 4, 8


def build() -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("Leyden")
        .uid("leyden")
        .description("The whole loop: what agents do, what it is worth, what is learned, what is served.")
        .tags(["leyden"])
        .timezone("browser")
        .refresh("10s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("policy")
            .label("Policy")
            .datasource(SOURCE)
            .query("label_values(leyden_gateway_alias_version, policy)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    )
    for section in SECTIONS:
        add(board, section)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def add(board: dashboard.Dashboard, section: Section) -> None:
    """A row and its charts, left to right."""
    board.with_row(dashboard.Row(section.title))
    for chart in section.charts:
        board.with_panel(number(chart) if chart.kind == "number" else lines(chart))


def number(chart: Chart) -> stat.Panel:
    """The newest value, large, over a faint line of its past."""
    panel = (
        stat.Panel()
        .title(chart.title)
        .description(chart.description)
        .datasource(SOURCE)
        .unit(chart.unit)
        .span(chart.width)
        .height(NUMBER_HEIGHT)
        .graph_mode(options.BigValueGraphMode.AREA)
        .color_mode(options.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    for target in targets(chart):
        panel.with_target(target)
    return panel


def lines(chart: Chart) -> timeseries.Panel:
    """Series over time, stacked where they add up to something."""
    panel = (
        timeseries.Panel()
        .title(chart.title)
        .description(chart.description)
        .datasource(SOURCE)
        .unit(chart.unit)
        .span(chart.width)
        .height(LINES_HEIGHT)
        .line_width(1)
        .fill_opacity(30 if chart.kind == "stacked" else 5)
        .show_points(options.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(options.TooltipDisplayMode.MULTI)
            .sort(options.SortOrder.DESCENDING)
        )
    )
    if chart.minimum is not None:
        panel.min(chart.minimum)
    if chart.kind == "stacked":
        panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))
    for target in targets(chart):
        panel.with_target(target)
    return panel


def targets(chart: Chart) -> list[prometheus.Dataquery]:
    """The queries with reference letters A, B, C…"""
    return [
        prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + index))
        for index, query in enumerate(chart.queries)
    ]


def outputs() -> Mapping[Path, str]:
    """Every generated file and what belongs in it."""
    board = build()
    return {
        DEPLOY / "grafana" / "dashboards" / "leyden.json": board,
        CHART_FILES / "dashboard.json": board,
        CHART_FILES / "alerts.yml": (DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"),
    }


def main(*, check: bool) -> int:
    """Write what is out of date, or only say so; the number of such files."""
    stale = {
        path: text
        for path, text in outputs().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        sys.stdout.write(f"{path.relative_to(DEPLOY)} {'is out of date' if check else 'written'}\n")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return len(stale)


if __name__ == "__main__":
    checking = "--check" in sys.argv[1:]
    sys.exit(bool(main(check=checking)) and checking)
