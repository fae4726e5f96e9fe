#!/usr/bin/env bash
# Builds the server's image: ENGINE=podman IMAGE=statecell-server:0.1.0 deploy/build.sh [more of the engine's build options]
# BASE is an image with Python 3.11 or newer to build on, in place of the Dockerfile's own.
set -euo pipefail
cd "${0%/*}/.."
: "${ENGINE:?docker, podman or buildah}" "${IMAGE:?the name of the image, such as statecell-server:0.1.0}"

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
exec "${build[@]}" ${BASE:+--build-arg BASE="$BASE"} --tag "$IMAGE" "$@" --file deploy/Dockerfile .
