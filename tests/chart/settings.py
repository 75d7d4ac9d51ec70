"""The program understands what the chart gives it: its flags, its environment, and the paths that it installs to."""

import json
import os
import pathlib
import re
import tempfile

import mutants
import pods
import templates

BINARY = pathlib.Path(os.environ["NRI_LDCACHE_BINARY"])
CONTAINER = json.dumps({"ociVersion": "1.1.0", "process": {"args": ["sh"], "env": ["NVIDIA_VISIBLE_DEVICES=all"]}, "root": {"path": "rootfs"}, "linux": {}})

# values.yaml -> flag of nri-ldcache run
DEFAULTS = {
    "nri.socketPath": "socket-path", "nri.name": "name", "nri.index": "idx", "hook.engine": "engine", "hook.ldconfigPath": "ldconfig-path",
    "hook.timeout": "timeout", "hook.onFailure": "on-failure", "hook.sandbox": "sandbox", "hook.reportDir": "report-dir",
    "policy.mode": "mode", "policy.annotation": "annotation", "log.level": "log-level",
}


def program(*words, env=None, stdin=""):
    import subprocess

    done = subprocess.run([BINARY, *words], env=env or {}, input=stdin, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def flags(subcommand):
    code, out, said = program(subcommand, "--help")
    assert code == 0, f"{BINARY} has no subcommand {subcommand}: {said}"
    return set(re.findall(r"(--[a-z][a-z-]*)", out)), out


def arguments_are_flags_of_the_program():
    seen = 0
    for name, specs in pods.cases():
        for document, spec in specs:
            for container in pods.containers(spec):
                subcommand, *arguments = container["args"]
                known, text = flags(subcommand)
                for argument in arguments:
                    flag = argument.split("=", 1)[0]
                    assert flag in known, f"{name}: {document['metadata']['name']}: {subcommand} has no {flag}"
                    seen += 1
                for item in container.get("env", []):
                    if item["name"].startswith("NRI_LDCACHE_"):
                        assert f"[env: {item['name']}=" in text, f"{name}: {subcommand} does not know {item['name']}"
                        seen += 1
    return f"{seen} flags and variables"


def settings_make_a_policy():
    """The agent's own words, given to explain, which reads them as run does."""
    for name, specs in pods.cases():
        container = pods.agent(specs)["containers"][0]
        env = {item["name"]: item["value"] for item in container["env"] if "value" in item}
        assert container["args"][0] == "run", name
        code, out, said = program("explain", "-", *container["args"][1:], env=env, stdin=CONTAINER)
        assert code == 0 and out, f"{name}: {said}"
        assert ("visible-devices" in out) == (env["NRI_LDCACHE_MODE"] == "auto") or "fail" in out, f"{name}: {out}"
    broken = {"NRI_LDCACHE_FOLDERS": "relative"}
    code, _, said = program("explain", "-", env=broken, stdin=CONTAINER)
    assert code != 0 and "relative" in said, "explain takes any environment"
    return "every values file"


def right_values_make_a_policy():
    import yaml

    for values in list(mutants.mixtures(200))[:40]:
        code, out, said = mutants.rendered(templates.HELMS[1], values)
        assert code == 0, f"{values}: {said}"
        specs = list(pods.pod_specs(document for document in yaml.safe_load_all(out) if document))
        container = pods.agent(specs)["containers"][0]
        env = {item["name"]: item["value"] for item in container["env"]}
        code, _, said = program("explain", "-", *container["args"][1:], env=env, stdin=CONTAINER)
        assert code == 0, f"{values}: {said}"
    return "40 mixtures"


def defaults_are_the_programs():
    _, text = flags("run")
    values, seen = mutants.defaults(), 0
    for path, flag in DEFAULTS.items():
        section, key = path.split(".")
        found = re.search(rf"--{flag} <.*?\[default: ([^\]]+)\]", text, re.S)
        assert found, f"run --{flag} tells no default"
        assert str(values[section][key]) == found[1], f"{path} is {values[section][key]}, and --{flag} {found[1]}"
        seen += 1
    return f"{seen} defaults"


def pods_install_and_uninstall():
    """The init container and the cleanup, on a directory instead of the host: what one makes, the other removes."""
    specs = list(pods.pod_specs(templates.objects()))
    install = pods.agent(specs)["initContainers"][0]["args"]
    uninstall = pods.named(specs, "-cleanup")["containers"][0]["args"]
    with tempfile.TemporaryDirectory() as host:
        def on_host(arguments):
            return [word.replace("=/host", f"={host}") for word in arguments]

        for path in ("opt/nri-ldcache", "run/nri-ldcache", "opt/other"):
            (pathlib.Path(host) / path).mkdir(parents=True)
        code, out, said = program(*on_host(install))
        assert code == 0, said
        installed = pathlib.Path(host) / out.strip().lstrip("/")
        installed = installed if installed.exists() else pathlib.Path(out.strip())
        assert installed.read_bytes() == BINARY.read_bytes() and os.access(installed, os.X_OK), f"{out!r} is not the program"
        (pathlib.Path(host) / "run/nri-ldcache/c1.json").write_text("{}")
        stays = ("--http-address", "--grace")
        code, _, said = program(*[word for word in on_host(uninstall) if not word.startswith(stays)], "--grace=0")
        assert code == 0, said
        left = sorted(str(path.relative_to(host)) for path in pathlib.Path(host).rglob("*"))
        assert "opt/other" in left and "opt/nri-ldcache" not in left, f"left on the host: {left}"
    return installed.name


CHECKS = [
    arguments_are_flags_of_the_program,
    settings_make_a_policy,
    right_values_make_a_policy,
    defaults_are_the_programs,
    pods_install_and_uninstall,
]
