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
METRICS = templates.CHART / "METRICS.md"

# Labels that Prometheus and the PodMonitor add.

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


def metrics():
    """What METRICS.md documents, which is made from what the daemon serves: each metric with its type and labels."""
    table = re.findall(r"^\| `nri_ldcache_(\w+)` \| (\w+) \| (.*?) \|", METRICS.read_text(), re.M)
    assert len(table) > 10, f"{METRICS.name} has {len(table)} metrics"
    return {name: (kind, dict(re.findall(r"`(\w+)`(?:: ((?:`[\w-]+`(?:, )?)*))?", labels))) for name, kind, labels in table}


def series(name, known):
    """The metric that a series belongs to: a histogram has three."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    found = base if base in known and known[base][0] == "histogram" and base != name else name
    assert found in known and (known[found][0] != "histogram" or found != name), f"there is no metric nri_ldcache_{name}"
    return found


def expressions_ask_for_metrics_that_there_are():
    known, used = metrics(), set()
    for where, expr in expressions():
        names = {series(name, known) for name in re.findall(r"nri_ldcache_(\w+)", expr)}
        assert names, f"{where} asks for nothing of ours"
        used |= names
        labels = TARGET | {label for name in names for label in known[name][1]}
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")}
        matched = re.findall(r"(\w+) *(?:=|!=|=~|!~) *\"([^\"]*)\"", expr)
        assert grouped | {label for label, _ in matched} <= labels, f"{where}: {grouped | {label for label, _ in matched} - labels} are no labels"
        for label, value in matched:
            values = " ".join(known[name][1].get(label, "") for name in names)
            assert label in TARGET or f"`{value}`" in values, f"{where}: {label} is never {value}"
    assert used == set(known), f"neither dashboard nor alerts use {set(known) - used}"
    return f"{len(used)} metrics"


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
    return f"{len(ids)} panels"


CHECKS = [
    expressions_are_promql,
    expressions_ask_for_metrics_that_there_are,
    alerts_fire_when_they_should,
    prometheus_operator_takes_them,
    the_dashboard_is_whole,
]
