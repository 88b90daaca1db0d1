#!/bin/sh
# Makes the whole root of the container image of one architecture: the binary,
# which is static, a user for it to run as, and where it keeps its state. The
# Dockerfile copies it; tools/image makes the image of it without one.
# Usage: deploy/image/rootfs.sh BINARY DIR
set -eu
binary=$1
root=$2
umask 022
mkdir -p "$root/etc" "$root/usr/bin" "$root/var/lib/controlplane" "$root/tmp"
cp "$binary" "$root/usr/bin/controlplane"
chmod 755 "$root/usr/bin/controlplane"
echo 'controlplane:x:65532:65532:Envoy control plane:/var/lib/controlplane:/sbin/nologin' >"$root/etc/passwd"
echo 'controlplane:x:65532:' >"$root/etc/group"
chmod 700 "$root/var/lib/controlplane"
chmod 1777 "$root/tmp"
