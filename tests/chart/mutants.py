"""Values that are wrong must be refused, each by what it does to one value, and values that are right accepted, in any mixture."""

import concurrent.futures
import copy
import json
import random
import tempfile

import jsonschema
import yaml

import templates

# Maps whose keys are the user's.
FREE = {
    "global", "commonLabels", "podLabels", "podAnnotations", "podMonitor.labels", "prometheusRule.labels",
    "prometheusRule.alertLabels", "grafanaDashboard.labels", "grafanaDashboard.annotations", "serviceAccount.annotations",
    "nodeSelector", "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
}
OTHER_TYPES = {str: [7, True, ["x"], {"x": "y"}], int: ["x", True, [1], {"x": 1}, 1.5], bool: ["yes", 1, ["x"], {"x": True}], list: ["x", 3, {"x": 1}], dict: ["x", 3, ["x"]]}
ALSO = {"resources": [int], "updateStrategy.rollingUpdate": [int, str]}

# Right by type, and wrong all the same.
WRONG = {
    "image.repository": ["a b", "https://registry.example/x", "registry.example/", "UPPER/Case"],
    "image.tag": ["a b", "-x", "x" * 129, "a/b"],
    "image.digest": ["sha256:12", "md5:" + "a" * 32, "sha256:" + "G" * 64],
    "image.pullPolicy": ["always", "", "Sometimes"],
    "nameOverride": ["Upper", "-x", "a_b", "x" * 64],
    "fullnameOverride": ["Upper", "x-", "a.b"],
    "namespaceOverride": ["Upper", "a/b"],
    "commonLabels": [{"a b": "c"}, {"a": "b c"}, {"a": 1}, {"a": "x" * 64}],
    "podAnnotations": [{"a b": "c"}, {"a": 1}],
    "nri.socketPath": ["nri.sock", "/nri.sock", "/var/run/../nri.sock", "/var//run/nri.sock", "/var/run/nri/", "unix:///var/run/nri/nri.sock", "/a b/c"],
    "nri.name": ["", "a b", "a/b"],
    "nri.index": ["9", "100", "ab", "-1", ""],
    "hook.installDir": ["opt/x", "/", "/opt", "/opt/../etc", "/opt/x/", "", "/opt/.hidden", "/opt/a b", "/opt/a\nb", "/opt/$(x)"],
    "hook.path": ["nri-ldcache", "/nri-ldcache", "/usr/../nri-ldcache", "/usr/local/bin/"],
    "hook.reportDir": ["run/x", "/", "/run", "/run/../etc"],
    "hook.engine": ["", "best", "Auto"],
    "hook.ldconfigPath": ["ldconfig", "@/sbin/ldconfig", "", "/sbin/../ldconfig"],
    "hook.timeout": [0, -1, 3601],
    "hook.onFailure": ["ignore", "", "Warn"],
    "hook.sandbox": ["none", "Strict"],
    "policy.mode": ["on", "Auto", ""],
    "policy.annotation": ["", "a/b", "a b", "Upper.example"],
    "policy.excludedNamespaces": [["a,b"], ["a b"], [""], ["Upper"], [1], ["["]],
    "policy.folders": [["lib"], ["/a,/b"], ["/a/../b"], [""], [1], ["/a\n/b"]],
    "log.level": ["trace", "INFO", ""],
    "log.format": ["yaml", "JSON"],
    "http.port": [0, 80, 1023, 65536, -1],
    "readinessProbe.periodSeconds": [0, -1],
    "livenessProbe.failureThreshold": [0],
    "startupProbe.timeoutSeconds": [0],
    "podMonitor.interval": ["30", "soon", ""],
    "podMonitor.relabelings": [[{"action": "dorp"}], [{"source_labels": ["x"]}]],
    "prometheusRule.alertLabels": [{"a-b": "c"}, {"a": 1}],
    "networkPolicy.from": [[{}], [{"podSelectors": {}}], ["x"]],
    "securityContext.runAsUser": [-1],
    "securityContext.capabilities": [{"drop": "ALL"}, {"dorp": ["ALL"]}, {"drop": ["all"]}],
    "securityContext.seccompProfile": [{"type": "Default"}, {"typ": "RuntimeDefault"}],
    "openshift.scc": ["true"],
    "priorityClassName": ["Upper", "a b"],
    "updateStrategy": [{"type": "Recreate"}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "101%"}}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": -1}}],
    "revisionHistoryLimit": [-1],
    "terminationGracePeriodSeconds": [-1, 3601],
    "nodeSelector": [{"a": 1}, {"a": True}],
    "affinity": [{"nodeAffinityy": {}}, {"nodeAffinity": {"required": {}}}],
    "tolerations": [[{"operator": "exists"}], [{"efect": "NoSchedule"}], [{"effect": "No"}], ["x"]],
    "resources": [{"limit": {}}, {"limits": {"gpu": 1}}, {"limits": {"memory": "64MB"}}, {"limits": {"memory": -1}}],
    "imagePullSecrets": [["name"], [{}], [{"nam": "x"}]],
    "cleanup.graceSeconds": [-1, 3601],
    "cleanup.timeoutSeconds": [0, 3601],
    "extraArgs": [[""], [1]],
    "extraEnv": [[{}], [{"value": "x"}], ["A=b"]],
    "extraVolumes": [[{}], ["x"]],
    "extraVolumeMounts": [[{"name": "x"}], [{"name": "x", "mountPath": "relative"}]],
}

# Right, for one value each.
RIGHT = {
    "image.repository": ["x", "registry.example:5000/a/b", "ghcr.example/a_b/c.d"],
    "image.tag": ["v1", "0.1.0_x"],
    "image.digest": ["sha256:" + "0" * 64],
    "image.pullPolicy": ["Always", "Never"],
    "imagePullSecrets": [[{"name": "a"}, {"name": "b"}]],
    "nameOverride": ["a", "gpu-cache"],
    "fullnameOverride": ["a", "x" * 63],
    "namespaceOverride": ["other"],
    "commonLabels": [{"a": "b"}, {"example.com/a": ""}],
    "podLabels": [{"x": "y"}],
    "podAnnotations": [{"example.com/x": "any: thing, [here]"}],
    "nri.socketPath": ["/run/nri.sock", "/a/b/c/d.sock"],
    "nri.name": ["a", "A.b_c-1"],
    "nri.index": ["00", "99", "08"],
    "hook.installDir": ["/home/kubernetes/bin/x", "/var/lib/a_b.c"],
    "hook.reportDir": ["/run/x/y"],
    "hook.engine": ["auto", "incremental", "native", "ldconfig"],
    "hook.timeout": [1, 3600],
    "hook.onFailure": ["fail"],
    "hook.sandbox": ["strict"],
    "policy.mode": ["enabled", "disabled"],
    "policy.annotation": ["a", "x.example.com"],
    "policy.excludedNamespaces": [["kube-*", "a?"], []],
    "policy.folders": [["/a", "/b/c.d"]],
    "log.level": ["error", "warn", "debug"],
    "log.format": ["text"],
    "http.port": [1024, 65535],
    "startupProbe": [{"periodSeconds": 2}],
    "readinessProbe": [{"initialDelaySeconds": 0, "successThreshold": 1}],
    "podMonitor": [{"enabled": True, "interval": "1m30s"}],
    "prometheusRule": [{"enabled": True, "alertLabels": {"team": "a"}}],
    "grafanaDashboard": [{"enabled": True}],
    "networkPolicy": [{"enabled": True, "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    "serviceAccount": [{"create": False}, {"name": "x", "annotations": {"a": "b"}}],
    "seLinuxOptions": [{"type": "spc_t"}],
    "priorityClassName": ["", "high"],
    "updateStrategy": [{"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "10%", "maxUnavailable": 1}}],
    "revisionHistoryLimit": [0, 10],
    "terminationGracePeriodSeconds": [0, 3600],
    "tolerations": [[], [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 0}]],
    "resources": [{"limits": {"cpu": 1, "memory": "1Gi"}}, {"requests": {"cpu": "0.5"}}],
    "cleanup": [{"enabled": False}, {"graceSeconds": 0, "timeoutSeconds": 1}],
    "extraArgs": [["--log-level=debug"]],
    "extraEnv": [[{"name": "A", "value": "b"}]],
}


def put(values, path, value):
    """A copy of the values with one of them replaced."""
    changed = copy.deepcopy(values)
    *above, last = path.split(".")
    inner = changed
    for key in above:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return changed


def leaves(values, path=""):
    """Every value with its path, maps before what they hold."""
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        yield name, value
        if isinstance(value, dict) and name not in FREE:
            yield from leaves(value, name)


def mutants(defaults):
    """Values that are wrong in one place, as what to set, and why."""
    yield {"nirs": {}}, "unknown key nirs"
    for path, value in leaves(defaults):
        for wrong in OTHER_TYPES[type(value)]:
            allowed = next((types for prefix, types in ALSO.items() if path.startswith(prefix)), [])
            if type(wrong) not in allowed:
                yield put({}, path, wrong), f"{path} is a {type(wrong).__name__}"
        if isinstance(value, dict) and path not in FREE:
            first = next(iter(value), "key")
            yield put({}, f"{path}.{first}s", value.get(first, "x")), f"unknown key {path}.{first}s"
    for path, values in WRONG.items():
        for wrong in values:
            yield put({}, path, wrong), f"{path} is {wrong!r}"


def mixtures(count):
    """Right values for a random choice of places; the seed is fixed, and so a failure is found again."""
    chance = random.Random(1)
    for _ in range(count):
        values = {}
        for path in chance.sample(sorted(RIGHT), chance.randint(1, 12)):
            values = put(values, path, chance.choice(RIGHT[path]))
        yield values


def rendered(helm, values):
    """What Helm makes of these values and an image: exit code, output, message."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(over({"image": {"repository": "x"}}, values), file)
        file.flush()
        return templates.command(helm, "template", "gpu", templates.CHART, "--kube-version", "1.34", "--values", file.name)


def defaults():
    return yaml.safe_load((templates.CHART / "values.yaml").read_text())


def over(values, changes):
    """The values that a chart has when some are set, as Helm merges maps."""
    merged = dict(values)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = over(merged[key], value) if both else value
    return merged


def validator():
    schema = json.loads((templates.CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def wrong_values_are_refused():
    """All by the schema, and by both Helms: that it is the schema that Helm refuses them by, its message says."""
    base, schema, wrong = defaults(), validator(), list(mutants(defaults()))
    assert len(wrong) >= 200, f"only {len(wrong)} wrong values"
    for values, why in wrong:
        assert not schema.is_valid(over(base, values)), f"the schema accepts that {why}"

    def refused(case):
        (values, why), helm = case
        code, _, said = rendered(helm, values)
        return None if code and "schema" in said else f"{helm.name} accepts that {why}: {said}"

    cases = [(case, templates.HELMS[1]) for case in wrong] + [(case, templates.HELMS[0]) for case in wrong[::8]]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        accepted = [said for said in pool.map(refused, cases) if said]
    assert not accepted, "\n".join(accepted)
    return f"{len(wrong)} by the schema, {len(cases)} by Helm"


def right_values_are_accepted():
    base, schema, count = defaults(), validator(), 0
    right = list(mixtures(200))
    for values in right:
        errors = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in schema.iter_errors(over(base, values))]
        assert not errors, f"the schema refuses {values}: {errors}"
    for index, values in enumerate(right[:60]):
        code, out, said = rendered(templates.HELMS[index % 2], values)
        assert code == 0, f"Helm refuses {values}: {said}"
        for document in yaml.safe_load_all(out):
            if document:
                templates.valid(document, "1.34")
                count += 1
    return f"{len(right)} by the schema, 60 by Helm: {count} objects"


CHECKS = [wrong_values_are_refused, right_values_are_accepted]
