#!/bin/sh
# After a removal. What operators wrote and what the control plane made stays, for
# in /var/lib/controlplane is the root of every certificate of the mesh.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
if [ "$1" = purge ] && [ -e /var/lib/controlplane/ca-key.pem ]; then
  echo "controlplane: the certificate authority stays in /var/lib/controlplane; remove it by hand if no proxy needs it" >&2
fi
