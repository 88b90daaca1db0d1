# The image of a sidecar: Envoy's own, with the control plane's binary in it.
# Envoy is of the version that configuration is generated for.
#
#   docker build -f deploy/image/sidecar.Dockerfile bin/rootfs
FROM envoyproxy/envoy:distroless-v1.40.0
COPY usr/bin/controlplane /usr/bin/controlplane
COPY --chown=65532:65532 var/lib/controlplane /var/lib/controlplane-sidecar
ENV CONTROLPLANE_SIDECAR_STATE_DIR=/var/lib/controlplane-sidecar
ENV CONTROLPLANE_SIDECAR_ENVOY=/usr/local/bin/envoy
USER 65532:65532
WORKDIR /var/lib/controlplane-sidecar
VOLUME /var/lib/controlplane-sidecar
ENTRYPOINT ["/usr/bin/controlplane"]
CMD ["sidecar", "-c", "/etc/controlplane/sidecar.yaml"]
