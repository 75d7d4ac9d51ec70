"""The program understands what the chart gives it: its flags, its environment, and the paths that it installs to."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import yaml

import mutants
import pods
import templates

BINARY = pathlib.Path(os.environ["NRI_LDCACHE_BINARY"])
CONTAINER = json.dumps({"ociVersion": "1.1.0", "process": {"args": ["sh"], "env": ["NVIDIA_VISIBLE_DEVICES=all"]}, "root": {"path": "rootfs"}, "linux": {}})

REPORT = {"id": "c1", "outcome": "updated", "ended": 1, "took": 1, "steps": [], "added": [], "refused": []}

# values.yaml -> flag of nri-ldcache run
DEFAULTS = {
    "nri.socketPath": "socket-path", "nri.name": "name", "nri.index": "idx", "hook.engine": "engine", "hook.ldconfigPath": "ldconfig-path",
    "hook.timeout": "timeout", "hook.onFailure": "on-failure", "hook.sandbox": "sandbox", "hook.reportDir": "report-dir",
    "policy.mode": "mode", "policy.annotation": "annotation", "log.level": "log-level",
}


def program(*words, env=None, stdin=""):
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


def as_in_a_pod(*words):
    """A command line without any capability, as the chart's pods have none."""
    return ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", *map(str, words)]


@contextlib.contextmanager
def running(words, env):
    """The program, in the background; killed in the end."""
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(as_in_a_pod(BINARY, *words), env=env, stdout=log, stderr=log)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


def ask(port, path):
    """Status and body of a request; what does not listen yet does so soon."""
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nobody answers {path}")


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


class Host:
    """A directory in place of a node's root, with its own port in place of the pods'."""

    def __init__(self, root):
        self.root, self.port = pathlib.Path(root), free_port()
        for path in ("opt/nri-ldcache", "run/nri-ldcache", "run/nri", "opt/other"):
            (self.root / path).mkdir(parents=True)

    def here(self, text):
        """A flag or a setting of a pod, as it is here."""
        return text.replace("/host", str(self.root)).replace(":9177", f":{self.port}").replace("--await=gpu-nri-ldcache-cleanup.gpu-system.svc", "--await=localhost")

    def words(self, arguments):
        return [self.here(word).replace("--grace=30", "--grace=1") for word in arguments]


def probes_are_answered():
    """The agent with its pod's own environment, where no runtime is: it lives, is not ready, says why, and counts."""
    container = pods.agent(list(pods.pod_specs(templates.objects())))["containers"][0]
    with tempfile.TemporaryDirectory() as root:
        host = Host(root)
        env = {item["name"]: host.here(item["value"]) for item in container["env"]}
        env["NRI_LDCACHE_SOCKET_PATH"] = f"{root}/run/nri/nri.sock"
        with running(container["args"], env):
            status, body = ask(host.port, container["livenessProbe"]["httpGet"]["path"])
            assert status == 200, f"not alive: {body}"
            status, body = ask(host.port, container["readinessProbe"]["httpGet"]["path"])
            assert status == 503 and body.strip(), f"ready without a runtime: {status} {body}"
            status, served = ask(host.port, "/metrics")
    assert status == 200 and "nri_ldcache_registered 0" in served, served
    templates.output(templates.TOOLS / "bin/promtool", "check", "metrics", stdin=served)
    return "; ".join(body.strip().splitlines()).replace(root, "")


def pods_install_and_uninstall():
    """The init container, the cleanup and who waits for it, on a directory instead of a node: what one makes, the other removes."""
    specs = list(pods.pod_specs(templates.objects()))
    install = pods.agent(specs)["initContainers"][0]["args"]
    uninstall = pods.named(specs, "-cleanup")["containers"][0]["args"]
    wait = next(spec for document, spec in specs if document["metadata"]["name"].endswith("-wait"))["containers"][0]["args"]
    with tempfile.TemporaryDirectory() as root:
        host = Host(root)
        path = templates.output(*as_in_a_pod(BINARY, *host.words(install))).strip()
        installed = host.root / path.lstrip("/")
        assert path.startswith("/opt/nri-ldcache/nri-ldcache-"), f"{path!r} is no path of the host"
        assert installed.read_bytes() == BINARY.read_bytes() and os.access(installed, os.X_OK), f"{path} is not the program"
        (host.root / "run/nri-ldcache/c1.json").write_text(json.dumps(REPORT))
        with running(host.words(uninstall), {}):
            status, body = ask(host.port, "/readyz")
            assert status == 503 and body.strip(), f"done at once: {status} {body}"
            templates.output(*as_in_a_pod(BINARY, *host.words(wait)))
        left = sorted(str(path.relative_to(host.root)) for path in host.root.rglob("*"))
        assert left == ["opt", "opt/other", "run", "run/nri"], f"left on the host: {left}"
    return installed.name


CHECKS = [
    arguments_are_flags_of_the_program,
    settings_make_a_policy,
    right_values_make_a_policy,
    defaults_are_the_programs,
    probes_are_answered,
    pods_install_and_uninstall,
]
