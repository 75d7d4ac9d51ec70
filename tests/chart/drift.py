"""What is written down twice is the same: the README's table, the schema, the values and what they are by default."""

import json
import pathlib
import re
import tempfile

import yaml

import mutants
import templates

README = templates.CHART / "README.md"


def the_readme_has_every_value():
    """The table is generated from the comments of values.yaml; tests/chart.sh --write writes it."""
    with tempfile.TemporaryDirectory() as work:
        copy = pathlib.Path(work) / "README.md"
        copy.write_text(README.read_text())
        templates.output(templates.TOOLS / "node/node_modules/.bin/readme-generator", "--values", templates.CHART / "values.yaml", "--readme", copy)
        assert copy.read_text() == README.read_text(), "the table of values is old: run tests/chart.sh --write"
    return f"{len(re.findall(r'^[|] `', README.read_text(), re.M))} values"


def resolved(schema, part):
    while "$ref" in part:
        part = schema["definitions"][part["$ref"].rsplit("/", 1)[1]]
    return part


def the_schema_has_every_value_and_no_other():
    schema = json.loads((templates.CHART / "values.schema.json").read_text())
    seen = 0

    def compare(values, part, path):
        nonlocal seen
        part = resolved(schema, part)
        if path in mutants.FREE or "propertyNames" in part:
            return
        assert part.get("additionalProperties") is False, f"{path or 'the top level'}: unknown keys are accepted"
        unknown = set(values) - set(part["properties"])
        assert not unknown, f"{path}: the schema lacks {unknown}"
        for key, value in values.items():
            seen += 1
            if isinstance(value, dict):
                compare(value, part["properties"][key], f"{path}.{key}" if path else key)

    defaults = mutants.defaults()
    compare(defaults, schema, "")
    assert set(schema["properties"]) == set(defaults), "the schema has keys that values.yaml has not"
    assert not list(mutants.validator().iter_errors(defaults)), "the defaults are refused"
    return f"{seen} values"


def versions_agree():
    chart = yaml.safe_load((templates.CHART / "Chart.yaml").read_text())
    crate = re.search(r'^version = "(.*)"', (templates.ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert chart["appVersion"] == crate, f"appVersion is {chart['appVersion']}, the program {crate}"
    changelog = (templates.ROOT / ".github/CHANGELOG.md").read_text()
    assert f"## [{crate}]" in changelog, f"the changelog does not know {crate}"
    declared = re.search(r"^ARG VERSION=(.*)$", (templates.ROOT / ".ci/Containerfile").read_text(), re.M)[1]
    assert declared == crate, f"the Containerfile says {declared}"
    return crate


CHECKS = [the_readme_has_every_value, the_schema_has_every_value_and_no_other, versions_agree]
