#!/usr/bin/env bash
# Builds an image: ENGINE=podman TARGET=cpu deploy/build.sh [more of the engine's build options]
# TARGET is cpu, gpu or export. IMAGE is its name, such as statecell-server:0.1.0; by default that of the target and the version.
# BASE is an image with Python 3.11 or newer to build on, in place of the Dockerfile's own.
# PLATFORMS (with docker's buildx) builds for several and pushes them to REGISTRY, as linux/amd64,linux/arm64 and ghcr.io/somebody/.
set -euo pipefail
cd "${0%/*}/.."
read -r VERSION < VERSION
: "${ENGINE:?docker, podman or buildah}" "${TARGET:=cpu}" "${BASE:=}" "${PLATFORMS:=}" "${REGISTRY:=}"

case $TARGET in
  cpu) name=statecell-server:$VERSION ;;
  gpu) name=statecell-server:$VERSION-gpu ;;
  export) name=statecell-export:$VERSION ;;
  *) echo "TARGET is '$TARGET', expected cpu, gpu or export" >&2; exit 2 ;;
esac
# The OCI format has no HEALTHCHECK, so podman and buildah are asked for Docker's; buildah keeps layers only when told.
case $ENGINE in
  docker) build=(docker build) ;;
  podman) build=(podman build --format docker) ;;
  buildah) build=(buildah build --format docker --layers --isolation chroot) ;;
  *) echo "ENGINE is '$ENGINE', expected docker, podman or buildah" >&2; exit 2 ;;
esac
if ! command -v "$ENGINE" >/dev/null; then
  echo "$ENGINE is not installed: install it, or choose another one: make image ENGINE=docker (or podman, or buildah)" >&2
  exit 2
fi
if [ -n "$PLATFORMS" ]; then
  if [ "$ENGINE" != docker ] || [ -z "$REGISTRY" ]; then
    echo "PLATFORMS needs ENGINE=docker (its buildx) and a REGISTRY to push to, such as ghcr.io/somebody/" >&2
    exit 2
  fi
  build=(docker buildx build --platform "$PLATFORMS" --push --sbom=true)
fi
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
exec "${build[@]}" ${BASE:+--build-arg BASE="$BASE"} --build-arg VERSION="$VERSION" --build-arg REVISION="$revision" \
  --target "$TARGET" --tag "${IMAGE:-$REGISTRY$name}" "$@" --file deploy/Dockerfile .
