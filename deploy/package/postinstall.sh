#!/bin/sh
# After an installation or an upgrade, of a deb (configure) or an rpm (1, 2).
set -e
if command -v systemd-sysusers >/dev/null 2>&1; then
  systemd-sysusers controlplane.conf
elif ! getent passwd controlplane >/dev/null; then
  useradd --system --user-group --no-create-home --home-dir /var/lib/controlplane --shell /usr/sbin/nologin controlplane
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  # An Envoy goes on while its control plane starts again. A sidecar would leave
  # the mesh and come back: those are restarted when their operator wants it.
  systemctl try-restart controlplane.service
fi
