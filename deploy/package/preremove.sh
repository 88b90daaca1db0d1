#!/bin/sh
# Before a removal (deb: remove, rpm: 0), not before an upgrade. A sidecar that is
# stopped leaves the mesh, and loses no request.
set -e
if [ "$1" = remove ] || [ "$1" = 0 ]; then
  if [ -d /run/systemd/system ]; then
    systemctl stop 'controlplane-sidecar@*.service' controlplane.service
    systemctl disable --quiet controlplane.service
  fi
fi
