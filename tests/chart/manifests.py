"""manifests/ is what the chart renders, for those who do not use Helm: python manifests.py writes it."""

import os
import pathlib
import re
import tempfile

import yaml

import templates

DIR = templates.ROOT / "manifests"
HEADER = "# Rendered from charts/nri-ldcache by tests/chart.sh --write: change it there.\n"

# What only Helm puts there.
OURS = re.compile(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.M)
HOOKS = re.compile(r"^  annotations:\n(    helm\.sh/.*\n)+", re.M)
SOURCE = re.compile(r"^# Source: .*\n", re.M)


def rendered():
    """The text of each file."""
    # Nobody can register this name: a manifest whose image was not set pulls nothing of a stranger.
    version = yaml.safe_load((templates.CHART / "Chart.yaml").read_text())["appVersion"]
    text = templates.output(
        templates.HELMS[1], "template", "nri-ldcache", templates.CHART, "--namespace", "nri-ldcache", "--kube-version", "1.34",
        "--set", "image.repository=localhost/nri-ldcache", "--set", f"image.tag={version}",
    )
    agent, cleanup = [], []
    for part in re.split(r"^---\n", text, flags=re.M):
        document = yaml.safe_load(part)
        if not document:
            continue
        hook = document["metadata"].get("annotations", {}).get("helm.sh/hook")
        plain = SOURCE.sub("", HOOKS.sub("", OURS.sub("", part))).strip() + "\n"
        if hook is None:
            agent.append(plain)
        elif hook == "post-delete" and document["kind"] in ("ServiceAccount", "DaemonSet"):
            cleanup.append(plain)
    assert agent and cleanup, "nothing was rendered"
    return {"nri-ldcache.yaml": HEADER + "---\n".join(agent), "uninstall.yaml": HEADER + "---\n".join(cleanup)}


def they_are_what_the_chart_renders():
    for name, text in rendered().items():
        assert (DIR / name).read_text() == text, f"manifests/{name} is old: run tests/chart.sh --write"
        assert "helm" not in text.replace(HEADER, "").lower(), f"manifests/{name} speaks of Helm"
    return "2 files"


def kustomize_builds_them():
    """With an image of one's own, as the README says."""
    with tempfile.TemporaryDirectory() as work:
        overlay = pathlib.Path(work) / "overlay"
        overlay.mkdir()
        images = [{"name": "localhost/nri-ldcache", "newName": "registry.example/nri-ldcache", "newTag": "1"}]
        base = os.path.relpath(DIR, overlay)
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "images": images}))
        built = list(yaml.safe_load_all(templates.output(templates.TOOLS / "bin/kubectl", "kustomize", "--load-restrictor=LoadRestrictionsNone", overlay)))
    kinds = sorted(document["kind"] for document in built)
    assert kinds == ["DaemonSet", "Namespace", "ServiceAccount"], kinds
    assert all(document["metadata"].get("namespace", "nri-ldcache") == "nri-ldcache" for document in built)
    [spec] = [d["spec"]["template"]["spec"] for d in built if d["kind"] == "DaemonSet"]
    used = {container["image"] for container in spec["containers"] + spec["initContainers"]}
    assert used == {"registry.example/nri-ldcache:1"}, used
    [namespace] = [d for d in built if d["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged", "the namespace refuses host directories"
    return ", ".join(kinds)


CHECKS = [they_are_what_the_chart_renders, kustomize_builds_them]

if __name__ == "__main__":
    for file, content in rendered().items():
        (DIR / file).write_text(content)
