"""What the rendered pods must be, whatever the values: a node agent is root on every GPU node."""

import pathlib

import templates

BROAD = {"/", "/etc", "/usr", "/var", "/var/lib", "/root", "/boot", "/proc", "/sys", "/dev"}


def pod_specs(documents):
    """Each pod or pod template, with the object that it is of."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document, document["spec"]
        elif document["kind"] == "DaemonSet":
            yield document, document["spec"]["template"]["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def cases():
    for values in [None, *templates.values_files()]:
        name = values.name if values else "defaults"
        yield name, list(pod_specs(templates.objects(values)))


def named(specs, suffix):
    """The pod of the DaemonSet whose name ends so, if there is one."""
    return next((spec for document, spec in specs if document["kind"] == "DaemonSet" and document["metadata"]["name"].endswith(suffix)), None)


def agent(specs):
    return next(spec for document, spec in specs if document["kind"] == "DaemonSet" and "uninstall" not in str(spec["containers"][0]["args"]))


def no_pod_has_a_credential_or_a_privilege():
    seen = 0
    for name, specs in cases():
        for document, spec in specs:
            where = f"{name}: {document['kind']} {document['metadata']['name']}"
            assert spec["automountServiceAccountToken"] is False, f"{where} gets an API token"
            for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
                assert not spec.get(key), f"{where} has {key}"
            assert not spec.get("enableServiceLinks"), f"{where} has service links"
            for container in containers(spec):
                context = container["securityContext"]
                assert context["privileged"] is False, f"{where} is privileged"
                assert context["allowPrivilegeEscalation"] is False, f"{where} may escalate"
                assert context["readOnlyRootFilesystem"] is True, f"{where} can write to its root"
                assert context["capabilities"] == {"drop": ["ALL"]}, f"{where} has capabilities"
                assert context["seccompProfile"] == {"type": "RuntimeDefault"}, f"{where} has no seccomp profile"
                assert container["resources"]["limits"]["memory"], f"{where} has no memory limit"
                assert "command" not in container, f"{where} overrides the program"
                seen += 1
    return f"{seen} containers"


def no_object_gives_rights():
    kinds = {document["kind"] for values in [None, *templates.values_files()] for document in templates.objects(values)}
    rights = {kind for kind in kinds if "Role" in kind or kind == "Secret"}
    assert not rights, f"the chart makes {rights}"
    return ", ".join(sorted(kinds))


def only_needed_directories_are_mounted():
    seen = 0
    for name, specs in cases():
        for document, spec in specs:
            for volume in spec.get("volumes", []):
                if "hostPath" not in volume:
                    continue
                path, kind = volume["hostPath"]["path"], volume["hostPath"]["type"]
                where = f"{name}: {document['metadata']['name']}: {path}"
                assert kind in ("Directory", "DirectoryOrCreate"), f"{where} is mounted as a {kind}, which goes stale"
                assert not path.endswith(".sock"), f"{where} is a socket"
                assert path not in BROAD, f"{where} is far more than is needed"
                seen += 1
            points = [mount["mountPath"] for container in spec["containers"] for mount in container.get("volumeMounts", [])]
            assert len(points) == len(set(points)), f"{name}: {document['metadata']['name']}: mounted twice: {points}"
    return f"{seen} host directories"


def the_agent_writes_nowhere():
    for name, specs in cases():
        for container in agent(specs)["containers"]:
            for mount in container["volumeMounts"]:
                assert mount.get("readOnly") is True or mount["name"].startswith("extra"), f"{name}: the agent can write to {mount['mountPath']}"
        for container in agent(specs).get("initContainers", []):
            mounts = [mount["name"] for mount in container["volumeMounts"]]
            assert mounts == ["hook"], f"{name}: install mounts {mounts}"
    return "every values file"


def paths_are_those_of_the_host():
    """Below /host everything is where the host has it, and the socket is at its own path."""
    for name, specs in cases():
        spec = agent(specs)
        host = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume}
        env = {item["name"]: item.get("value") for item in spec["containers"][0]["env"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        assert env["NRI_LDCACHE_HOST_ROOT"] == "/host", name
        assert mounts["nri"] == host["nri"] == str(pathlib.PurePosixPath(env["NRI_LDCACHE_SOCKET_PATH"]).parent), name
        assert mounts["reports"] == "/host" + host["reports"] == "/host" + env["NRI_LDCACHE_REPORT_DIR"], name
        assert mounts["hook"] == "/host" + host["hook"], name
        installed, path = env.get("NRI_LDCACHE_INSTALL_DIR"), env.get("NRI_LDCACHE_HOOK_PATH")
        assert (installed is None) != (path is None), f"{name}: install-dir and hook-path exclude each other"
        assert host["hook"] == (installed or str(pathlib.PurePosixPath(path).parent)), name
        assert bool(installed) == bool(spec.get("initContainers")), f"{name}: who installs?"
    return "every values file"


def probes_ask_the_port_that_is_served():
    for name, specs in cases():
        container = agent(specs)["containers"][0]
        env = {item["name"]: item.get("value") for item in container["env"]}
        [port] = container["ports"]
        assert env["NRI_LDCACHE_HTTP_ADDRESS"] == f":{port['containerPort']}", name
        for probe, path in (("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
            if probe in container:
                assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}, f"{name}: {probe}"
    return "every values file"


def every_gpu_node_has_an_agent_and_no_gap():
    [daemonset] = [document for document, _ in pod_specs(templates.objects()) if document["metadata"]["name"] == "gpu-nri-ldcache"]
    update = daemonset["spec"]["updateStrategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}, f"an update leaves a gap: {update}"
    spec = daemonset["spec"]["template"]["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    keys = [expression["key"] for term in terms for expression in term["matchExpressions"]]
    assert len(terms) == len(keys) == 5 and "nvidia.com/gpu.present" in keys, f"terms must be alternatives: {terms}"
    assert spec["priorityClassName"] == "system-node-critical" and spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["hostUsers"] is True
    assert "hostUsers" not in agent(list(pod_specs(templates.objects(version="1.31"))))
    return f"{len(terms)} terms"


def cleanup_is_where_the_agent_was():
    seen = 0
    for name, specs in cases():
        spec, cleanup = agent(specs), named(specs, "-cleanup")
        if cleanup is None:
            continue
        for key in ("nodeSelector", "affinity", "tolerations", "priorityClassName", "securityContext", "imagePullSecrets", "hostUsers"):
            assert cleanup.get(key) == spec.get(key), f"{name}: cleanup has another {key}"
        assert cleanup["containers"][0]["image"] == spec["containers"][0]["image"], name
        env = {item["name"]: item.get("value") for item in spec["containers"][0]["env"]}
        points = {mount["mountPath"] for mount in cleanup["containers"][0]["volumeMounts"]}
        for path in (env["NRI_LDCACHE_INSTALL_DIR"], env["NRI_LDCACHE_REPORT_DIR"]):
            above = "/host" + str(pathlib.PurePosixPath(path).parent)
            assert above in points, f"{name}: {path} can't be removed, as {above} is not mounted"
            assert any(path in argument for argument in cleanup["containers"][0]["args"]), f"{name}: {path} is not removed"
        seen += 1
    assert seen > 5, f"only {seen} values files have a cleanup"
    return f"{seen} values files"


def hooks_need_nothing_of_the_release():
    """When helm uninstall runs them, the release's own objects are gone."""
    seen = 0
    for values in [None, *templates.values_files()]:
        documents = templates.objects(values)
        hooks = [d for d in documents if "post-delete" in d["metadata"].get("annotations", {}).get("helm.sh/hook", "")]
        accounts = {d["metadata"]["name"] for d in hooks if d["kind"] == "ServiceAccount"}
        created = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
        weights = {d["kind"]: int(d["metadata"]["annotations"]["helm.sh/hook-weight"]) for d in hooks}
        for document, spec in pod_specs(hooks):
            account = spec["serviceAccountName"]
            assert account in accounts or account not in created, f"{values}: {account} is gone by then"
            policy = document["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
            assert set(policy) == {"before-hook-creation", "hook-succeeded", "hook-failed"}, f"{values}: {policy} leaves objects behind"
            seen += 1
        if hooks:
            assert weights.get("ServiceAccount", -9) < weights["Service"] < weights["DaemonSet"] < weights["Pod"], f"{values}: {weights}"
            [service] = [d for d in hooks if d["kind"] == "Service"]
            [daemonset] = [d for d in hooks if d["kind"] == "DaemonSet"]
            labels = daemonset["spec"]["template"]["metadata"]["labels"]
            assert service["spec"]["selector"].items() <= labels.items() and service["spec"]["publishNotReadyAddresses"] is True
            [wait] = [d for d in hooks if d["kind"] == "Pod"]
            port = service["spec"]["ports"][0]["port"]
            address = f"--await={service['metadata']['name']}.{service['metadata'].get('namespace')}.svc:{port}"
            assert address in wait["spec"]["containers"][0]["args"], f"{values}: the pod does not wait for {address}"
    return f"{seen} pods"


def selectors_find_their_pods_and_no_others():
    for values in [None, *templates.values_files()]:
        daemonsets = [d for d in templates.objects(values) if d["kind"] == "DaemonSet"]
        for one in daemonsets:
            selector = one["spec"]["selector"]["matchLabels"]
            found = [d["metadata"]["name"] for d in daemonsets if selector.items() <= d["spec"]["template"]["metadata"]["labels"].items()]
            assert found == [one["metadata"]["name"]], f"{values}: {one['metadata']['name']} selects the pods of {found}"
        names = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in templates.objects(values)]
        assert len(names) == len(set(names)), f"{values}: two objects have one name"
        assert all(len(name) <= 63 for kind, _, name in names if kind != "SecurityContextConstraints"), f"{values}: {names}"
    return "every values file"


def helm_test_may_ask_the_agents():
    documents = templates.objects(templates.ROOT / "tests/chart/values/everything.yaml")
    [policy] = [d for d in documents if d["kind"] == "NetworkPolicy"]
    [pod] = [d for d in documents if d["metadata"].get("annotations", {}).get("helm.sh/hook") == "test" and d["kind"] == "Pod"]
    [service] = [d for d in documents if d["metadata"].get("annotations", {}).get("helm.sh/hook") == "test" and d["kind"] == "Service"]
    peers = [peer["podSelector"]["matchLabels"] for rule in policy["spec"]["ingress"] for peer in rule["from"] if "podSelector" in peer]
    assert any(labels.items() <= pod["metadata"]["labels"].items() for labels in peers), f"only {peers} may"
    [daemonset] = [d for d in documents if d["kind"] == "DaemonSet" and "annotations" not in d["metadata"]]
    assert service["spec"]["selector"].items() <= daemonset["spec"]["template"]["metadata"]["labels"].items()
    assert policy["spec"]["podSelector"]["matchLabels"] == service["spec"]["selector"] and service["spec"]["publishNotReadyAddresses"] is True
    address = f"--await={service['metadata']['name']}.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"
    assert address in pod["spec"]["containers"][0]["args"], f"the test does not ask {address}"
    return address


def openshift_allows_what_the_pods_ask_for():
    documents = templates.objects(templates.CHART / "values-openshift.yaml")
    allowed = {user for d in documents if d["kind"] == "SecurityContextConstraints" for user in d["users"]}
    for document, spec in pod_specs(documents):
        assert spec["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}, document["metadata"]["name"]
        user = f"system:serviceaccount:gpu-system:{spec['serviceAccountName']}"
        assert user in allowed, f"no constraints allow {user}"
    return f"{len(allowed)} service accounts"


CHECKS = [
    no_pod_has_a_credential_or_a_privilege,
    no_object_gives_rights,
    only_needed_directories_are_mounted,
    the_agent_writes_nowhere,
    paths_are_those_of_the_host,
    probes_ask_the_port_that_is_served,
    every_gpu_node_has_an_agent_and_no_gap,
    cleanup_is_where_the_agent_was,
    hooks_need_nothing_of_the_release,
    selectors_find_their_pods_and_no_others,
    helm_test_may_ask_the_agents,
    openshift_allows_what_the_pods_ask_for,
]
