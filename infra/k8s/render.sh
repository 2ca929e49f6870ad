#!/bin/sh
# render.sh OVERLAY: its manifests on standard output. The first time, it makes the secrets of the component plain-secrets.
set -eu
here=$(dirname "$0")
overlay=$here/overlays/$1
[ -f "$overlay/kustomization.yaml" ] || {
  echo "k8s: there is no overlay $1 in infra/k8s/overlays" >&2
  exit 2
}
if grep -q plain-secrets "$overlay/kustomization.yaml"; then
  python3 "$here/make_secrets.py"
fi
if command -v kustomize >/dev/null 2>&1; then
  exec kustomize build "$overlay"
elif command -v kubectl >/dev/null 2>&1; then
  exec kubectl kustomize "$overlay"
fi
echo "k8s: kubectl or kustomize is needed" >&2
exit 2
