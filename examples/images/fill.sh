#!/bin/sh
# Builds the two images of images.yaml and pushes them to a registry: `examples/images/fill.sh localhost:5000`.
# Needs mmdebstrap and buildah. A registry for trying: apt install docker-registry (it listens on port 5000).
set -eu
registry=${1:?usage: fill.sh REGISTRY}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Storage of its own, without an overlay or a helper: works in any place where one is root.
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
mirror() { cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null || true; }

build() { # NAME PACKAGES
    mkdir "$work/$1"
    cp "$here/$1"/* "$work/$1"
    mirror | mmdebstrap --quiet --variant=essential --include="$2" --aptopt='APT::Install-Recommends "false"' \
        bookworm "$work/$1/root.tar" -
    # HEALTHCHECK is a word of Docker's format alone.
    buildah bud --quiet --isolation chroot --format docker --tag "$1" "$work/$1" >/dev/null
    buildah push --quiet --tls-verify=false "$1" "docker://$registry/demo/$1:1" >/dev/null
    echo "pushed $registry/demo/$1:1"
}

build store redis-server
build web nginx-light
