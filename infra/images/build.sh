#!/bin/sh
# build.sh SERVICE [ARGUMENTS OF THE BUILDER]: spillway-SERVICE:dev, from the root of the repository.
# BUILDER is docker, podman or buildah; unset, the first of them that works.
set -eu
service=$1
shift
file=
for folder in services libs; do
  [ ! -f "$folder/$service/Dockerfile" ] || file=$folder/$service/Dockerfile
done
[ -n "$file" ] || {
  echo "image: $service has no Dockerfile" >&2
  exit 2
}
builder=${BUILDER-}
for candidate in docker podman buildah; do
  # A docker without an engine behind it is no builder.
  [ -n "$builder" ] || ! "$candidate" info >/dev/null 2>&1 || builder=$candidate
done
[ -n "$builder" ] || {
  echo "image: docker, podman or buildah is needed" >&2
  exit 2
}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
exec "$builder" build --file "$file" --tag "spillway-$service:dev" --build-arg "REVISION=$revision" "$@" .
