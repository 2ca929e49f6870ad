#!/bin/sh
# sbom.sh [SERVICE…]: dist/SERVICE.cdx.json, what the image of each holds besides its base, as CycloneDX 1.5 from uv.lock.
# Without arguments: of everything that has an image.
set -eu
if [ $# -eq 0 ]; then
  for dockerfile in services/*/Dockerfile libs/*/Dockerfile; do
    folder=${dockerfile%/Dockerfile}
    set -- "$@" "${folder##*/}"
  done
fi
mkdir -p dist
for service; do
  uv export --frozen --quiet --no-dev --package "$service" \
    --format cyclonedx1.5 --preview-features sbom-export --output-file "dist/$service.cdx.json" >/dev/null
  echo "dist/$service.cdx.json"
done
