"""Linters over what is not Rust: shell scripts, the Containerfile, workflows, YAML, Markdown's links."""

import json
import pathlib
import re

import templates

PYTHON = templates.TOOLS / "python/bin"


def tracked(*patterns):
    """Files of the repository, those that are not committed yet among them."""
    listed = templates.output("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns).split()
    return [name for name in listed if (templates.ROOT / name).exists()]


def shell_scripts():
    scripts = tracked("*.sh") + [name for name in tracked(".ci/*") if pathlib.Path(name).read_bytes().startswith(b"#!")]
    assert len(scripts) > 5, scripts
    templates.output(PYTHON / "shellcheck", *scripts)
    return f"{len(scripts)} scripts"


def containerfile():
    # DL3008: the versions of a cross-compiler are those of the release that the builder's image is of.
    templates.output(PYTHON / "hadolint", "--ignore", "DL3008", ".ci/Containerfile")
    return "1 file"


def yaml_files():
    files = [name for name in tracked("*.yaml", "*.yml") if "/templates/" not in name]
    rules = {
        "extends": "default",
        "rules": {
            "line-length": {"max": 200},
            "document-start": "disable",
            "truthy": {"check-keys": False},
            "comments": {"min-spaces-from-content": 1},
            "indentation": {"indent-sequences": "whatever"},
        },
    }
    templates.output(PYTHON / "yamllint", "--strict", "--config-data", json.dumps(rules), *files)
    for values in [None, templates.CHART / "values-openshift.yaml", templates.ROOT / "tests/chart/values/everything.yaml"]:
        said = [line for line in templates.text(values).splitlines() if line != line.rstrip()]
        assert not said, f"rendered lines end in blanks: {said}"
    return f"{len(files)} files"


def workflows():
    files = tracked(".github/workflows/*.yml")
    assert files, "no workflows"
    templates.output(PYTHON / "actionlint", "-shellcheck", PYTHON / "shellcheck", *files)
    templates.output(PYTHON / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files)
    templates.output(PYTHON / "check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    templates.output(PYTHON / "zizmor", "--offline", "--quiet", "--persona=auditor", ".github")
    for name in files:
        for action in re.findall(r"uses: *((?!\./)\S+.*)", pathlib.Path(name).read_text()):
            assert re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", action), f"{name}: {action} is not pinned"
    return f"{len(files)} workflows"


def links():
    """Every link from a document into the repository leads somewhere, to a heading that is there."""
    def anchors(path):
        headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), flags=re.M)
        return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}

    seen = 0
    for name in tracked("*.md"):
        document = templates.ROOT / name
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, heading = target.partition("#")
            found = (document.parent / path).resolve() if path else document
            assert found.exists(), f"{name}: {target} is not there"
            assert not heading or heading in anchors(found), f"{name}: {target}: no such heading"
            seen += 1
    return f"{seen} links"


CHECKS = [shell_scripts, containerfile, yaml_files, workflows, links]
