"""The chart as both Helms render it: over all values files and Kubernetes versions, valid by Kubernetes' own schemas."""

import functools
import json
import os
import pathlib
import subprocess
import tempfile

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/nri-ldcache"
TOOLS = pathlib.Path(os.environ["NRI_LDCACHE_TOOLS"])
HELMS = [TOOLS / "bin/helm3", TOOLS / "bin/helm4"]
VERSIONS = ["1.25", "1.28", "1.31", "1.34", "1.37"]
IMAGE = ["--set", "image.repository=registry.example/nri-ldcache"]

# What Kubernetes does not define itself; alerts.py checks those of Prometheus.
FOREIGN = {"PodMonitor", "PrometheusRule", "SecurityContextConstraints"}


def command(*words, stdin=None):
    """Runs a command: its exit code, its output, and what it said."""
    done = subprocess.run([str(word) for word in words], input=stdin, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def output(*words, stdin=None):
    """The output of a command that must do."""
    code, out, said = command(*words, stdin=stdin)
    assert code == 0, f"{' '.join(map(str, words))}: {said or out}"
    return out


def values_files():
    """The presets of the chart and the cases of the tests."""
    return sorted(CHART.glob("values-*.yaml")) + sorted((ROOT / "tests/chart/values").glob("*.yaml"))


@functools.cache
def text(values=None, version="1.34", helm=HELMS[1], release="gpu", namespace="gpu-system"):
    """What helm template prints."""
    files = ["--values", values] if values else []
    return output(helm, "template", release, CHART, "--namespace", namespace, "--kube-version", version, *IMAGE, *files)


@functools.cache
def objects(values=None, version="1.34", helm=HELMS[1]):
    """The rendered objects."""
    return [document for document in yaml.load_all(text(values, version, helm), yaml.CSafeLoader) if document]


@functools.cache
def _valid(document, version):
    kubernetes_validate.validate(json.loads(document), version, strict=True)


def valid(document, version):
    """Does Kubernetes know every field of the object? Once for each that is the same."""
    if document["kind"] not in FOREIGN:
        try:
            _valid(json.dumps(document, sort_keys=True), version)
        except kubernetes_validate.ValidationError as error:
            said = str(error).splitlines()[0]
            raise AssertionError(f"Kubernetes {version}: {document['kind']} {document['metadata']['name']}: {said}") from error


def every_values_file_is_valid_in_every_version():
    files, seen = [None, *values_files()], 0
    assert len(files) > 10, f"only {len(files)} values files"
    for values in files:
        for version in VERSIONS:
            for document in objects(values, version):
                valid(document, version)
                seen += 1
    return f"{seen} objects of {len(files)} values files x {len(VERSIONS)} versions"


def both_helms_render_the_same():
    files = [None, *values_files()]
    for values in files:
        three, four = (sorted(objects(values, helm=helm), key=str) for helm in HELMS)
        assert three == four, f"{values}: Helm 3 and Helm 4 differ"
    return f"{len(files)} values files"


def charts_lint():
    files = [None, *values_files()]
    for helm in HELMS:
        for values in files:
            output(helm, "lint", "--strict", CHART, *IMAGE, *(["--values", values] if values else []))
    return f"{len(files)} values files x {len(HELMS)} Helms"


def mistakes_are_refused_with_a_hint():
    cases = [
        (["--set", "image.repository="], "say where your nodes find the image"),
        (["--set", "hook.install=false"], "say where the program is on the nodes"),
        (["--set", "hook.path=/usr/local/bin/nri-ldcache"], "set hook.install=false"),
        (["--set", "hook.installDir=/run/nri-ldcache/bin"], "give each a directory of its own"),
        (["--set", "hook.installDir=/run/nri-ldcache"], "give each a directory of its own"),
        (["--set", "hook.installDir=/var/run/nri"], "is in the runtime's directory"),
        (["--set", "updateStrategy.type=OnDelete"], "set it to null"),
        (["--set", "updateStrategy.rollingUpdate.maxSurge=0"], "can't both be 0"),
        (["--set", "securityContext.privileged=true"], "nothing here needs either"),
        (["--set", "commonLabels.app\\.kubernetes\\.io/name=x"], "commonLabels"),
        (["--kube-version", "1.24"], "kubeVersion"),
    ]
    for helm in HELMS:
        for arguments, hint in cases:
            code, _, said = command(helm, "template", "gpu", CHART, *IMAGE, *arguments)
            assert code != 0 and hint in said, f"{helm.name} {' '.join(arguments)}: no {hint!r} in {said!r}"
    return f"{len(cases)} cases x {len(HELMS)} Helms"


def charts_package():
    """Nothing is lost on the way to a registry: the package renders as the directory does."""
    with tempfile.TemporaryDirectory() as work:
        output(HELMS[1], "package", CHART, "--destination", work)
        package = next(pathlib.Path(work).glob("*.tgz"))
        packaged = output(HELMS[1], "template", "gpu", package, "--namespace", "gpu-system", "--kube-version", "1.34", *IMAGE)
        assert packaged == text(), f"{package.name} renders otherwise than the directory"
        return f"{package.name}, {package.stat().st_size} bytes"


CHECKS = [
    charts_lint,
    every_values_file_is_valid_in_every_version,
    both_helms_render_the_same,
    mistakes_are_refused_with_a_hint,
    charts_package,
]
