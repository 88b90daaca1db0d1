# The control plane as a Nomad job: on a machine with a Consul agent, and with a
# host volume "controlplane" that belongs to user 65532. In it are the keys of the
# mesh, so this job is not moved from machine to machine without them.
variable "image" {
  type    = string
  default = "controlplane:local"
}

job "controlplane" {
  type = "service"

  group "controlplane" {
    count = 1

    network {
      mode = "host"
      port "xds" {
        static = 18000
      }
    }

    # A second replica would need the same keys: see docs/deploy.md.
    volume "data" {
      type   = "host"
      source = "controlplane"
    }

    # Envoys go on without it, but not for ever: never give up.
    restart {
      attempts = 10
      interval = "1m"
      delay    = "1s"
      mode     = "delay"
    }

    task "serve" {
      driver = "docker"
      user   = "65532"

      config {
        image        = var.image
        network_mode = "host"
        args = [
          "serve", "-f", "/local/mesh.yaml", "--xds-address", ":${NOMAD_PORT_xds}",
          # A job's workload identity proves which service it is: the job's name.
          "--join-nomad-jwks", "http://127.0.0.1:4646/.well-known/jwks.json",
          "--join-nomad-claim", "nomad_job_id",
        ]
        readonly_rootfs = true
        cap_drop        = ["all"]
      }

      volume_mount {
        volume      = "data"
        destination = "/var/lib/controlplane"
      }

      # An edit of the job changes the file in place; the control plane reads it
      # again by itself.
      template {
        destination = "local/mesh.yaml"
        change_mode = "noop"
        data        = <<-EOT
          mesh:
            name: mesh
            discovery:
              method: consul
              consul:
                host: 127.0.0.1
                port: 8500
                register_interval: 10s
                deregister_critical_service_after: 30s
                token_file: /secrets/consul.token
            security:
              mtls: {enabled: true}
              authorization:
                enabled: true
                policies:
                  - name: everybody
                    action: ALLOW
                    principals: ["spiffe://mesh/*"]
        EOT
      }

      # nomad var put nomad/jobs/controlplane consul_token=…
      template {
        destination = "secrets/consul.token"
        perms       = "0600"
        uid         = 65532
        gid         = 65532
        data        = "{{ with nomadVar \"nomad/jobs/controlplane\" }}{{ .consul_token }}{{ end }}"
      }

      kill_timeout = "30s"

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
