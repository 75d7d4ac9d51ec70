"""Alerts and dashboard: valid, they fire when they should, and ask for metrics that there are."""

import json
import pathlib
import re
import tempfile

import yaml

import templates

PROMTOOL = templates.TOOLS / "bin/promtool"
EVERYTHING = templates.ROOT / "tests/chart/values/everything.yaml"
DASHBOARD = templates.CHART / "dashboards/nri-ldcache.json"

# What the daemon exports, with its labels; METRICS.md has the same.
METRICS = {
    "registered": "", "synchronized": "", "connects_total": "", "disconnects_total": "reason", "requests_total": "method result",
    "request_duration_seconds": "method", "requests_inflight": "", "decisions_total": "decision reason",
    "hooks_injected_total": "", "hooks_withheld_total": "reason", "hook_runs_total": "outcome engine",
    "hook_run_duration_seconds": "engine", "containers_without_hook": "", "disconnected_seconds_total": "",
    "hook_file_good": "", "build_info": "version",
}
HISTOGRAMS = {name for name in METRICS if name.endswith("_seconds")}
TARGET = {"namespace", "pod", "node", "le", "instance", "job", "container"}


def rendered(kind):
    return next(document for document in templates.objects(EVERYTHING) if document["kind"] == kind)


def expressions():
    """Every PromQL expression with where it is."""
    for group in rendered("PrometheusRule")["spec"]["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def expressions_are_promql():
    rules = [{"record": "x:y", "expr": expr.replace("$__rate_interval", "5m").replace("$node", ".*").replace("$namespace", ".*")} for _, expr in expressions()]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": f"g{index}", "rules": [rule]} for index, rule in enumerate(rules)]}, file)
        file.flush()
        templates.output(PROMTOOL, "check", "rules", file.name)
    return f"{len(rules)} expressions"


def expressions_ask_for_metrics_that_there_are():
    names, labels = set(), {name for text in METRICS.values() for name in text.split()} | TARGET
    for where, expr in expressions():
        for name in re.findall(r"nri_ldcache_(\w+)", expr):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in METRICS and name not in HISTOGRAMS or base in HISTOGRAMS and base != name, f"{where}: no metric nri_ldcache_{name}"
            names.add(base if base in HISTOGRAMS else name)
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")}
        matched = {label for group in re.findall(r"\{([^}]*)\}", expr) for label in re.findall(r"(\w+) *[=!]", group)}
        assert grouped | matched <= labels, f"{where}: labels {grouped | matched - labels}"
    document = templates.CHART / "METRICS.md"
    if document.exists():
        documented = set(re.findall(r"nri_ldcache_(\w+)", document.read_text()))
        documented = {re.sub(r"_(bucket|sum|count)$", "", name) if name not in METRICS else name for name in documented}
        assert names <= documented, f"METRICS.md lacks {names - documented}"
    return f"{len(names)} of {len(METRICS)} metrics" + ("" if document.exists() else "; no METRICS.md to compare with")


def alerts_fire_when_they_should():
    groups = {"groups": rendered("PrometheusRule")["spec"]["groups"]}
    tests = yaml.safe_load((templates.ROOT / "tests/chart/alerts.yaml").read_text())
    with tempfile.TemporaryDirectory() as work:
        rules, cases = pathlib.Path(work) / "rules.yaml", pathlib.Path(work) / "tests.yaml"
        rules.write_text(yaml.safe_dump(groups))
        cases.write_text(yaml.safe_dump({**tests, "rule_files": [str(rules)]}))
        templates.output(PROMTOOL, "check", "rules", "--lint-fatal", rules)
        templates.output(PROMTOOL, "test", "rules", cases)
    alerts = {rule["alert"] for group in groups["groups"] for rule in group["rules"]}
    fired = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")}
    silent = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if not case.get("exp_alerts")}
    assert alerts == fired == silent, f"not tested both ways: {alerts - fired} {alerts - silent}"
    return f"{len(alerts)} alerts, each fires and is silent"


def prometheus_operator_takes_them():
    documents = [rendered("PodMonitor"), rendered("PrometheusRule")]
    script = templates.ROOT / "tests/chart/models.mjs"
    templates.output("node", script, templates.TOOLS / "node/node_modules/@kubernetes-models/prometheus-operator", stdin=json.dumps(documents))
    broken = [{**documents[0], "spec": {"podMetricsEndpoints": "x"}}]
    code, _, _ = templates.command("node", script, templates.TOOLS / "node/node_modules/@kubernetes-models/prometheus-operator", stdin=json.dumps(broken))
    assert code != 0, "the models accept anything"
    return "PodMonitor, PrometheusRule"


def the_dashboard_is_whole():
    dashboard = json.loads(DASHBOARD.read_text())
    mounted = json.loads(next(d for d in templates.objects(EVERYTHING) if d["kind"] == "ConfigMap")["data"]["nri-ldcache.json"])
    assert mounted == dashboard, "the ConfigMap has another dashboard"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) and all(panel["title"] for panel in dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}", f"{panel['title']} has a data source of its own"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, f"{panel['title']} does not fit"
    shown = {name for _, expr in expressions() for name in METRICS if f"nri_ldcache_{name}" in expr}
    assert shown == set(METRICS), f"neither dashboard nor alerts use {set(METRICS) - shown}"
    return f"{len(ids)} panels"


CHECKS = [
    expressions_are_promql,
    expressions_ask_for_metrics_that_there_are,
    alerts_fire_when_they_should,
    prometheus_operator_takes_them,
    the_dashboard_is_whole,
]
