# A service with its sidecar. The job's name is the service's: the control plane
# takes it from the workload identity, which Nomad signs (--join-nomad-claim
# nomad_job_id), so there is no token to hand out.
#
#   nomad job run -var ca_hash=sha256:… deploy/nomad/lake_service.nomad.hcl
variable "ca_hash" {
  type        = string
  description = "SHA-256 of the control plane's ca.pem, as `controlplane token join` prints it"
}

variable "xds_address" {
  type    = string
  default = "controlplane.service.consul:18000"
}

variable "image" {
  type    = string
  default = "controlplane-sidecar:local"
}

job "lake_service" {
  type = "service"

  update {
    max_parallel     = 1
    min_healthy_time = "5s"
  }

  group "lake" {
    count = 2

    # Ports of the machine, which Nomad chooses; the application and what it calls
    # are on 127.0.0.1, so that others reach it by its sidecar alone.
    network {
      mode = "host"
      port "app" {}
      port "mesh" {}
      port "outbound" {}
      port "metrics" {}
    }

    task "sidecar" {
      driver = "docker"
      user   = "65532"

      # It starts before the application. As the leader it is also stopped before:
      # the callers are told, what is under way ends, and then the application is
      # stopped. Without `leader` Nomad stops a sidecar last.
      leader = true
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      identity {
        name = "controlplane"
        aud  = ["controlplane"]
        ttl  = "1h"
        file = true
      }

      config {
        image        = var.image
        network_mode = "host"
        args = [
          "sidecar", "--service", "${NOMAD_JOB_ID}", "--app-port", "${NOMAD_PORT_app}",
          "--mesh-port", "${NOMAD_PORT_mesh}", "--outbound-port", "${NOMAD_PORT_outbound}", "--metrics-port", "${NOMAD_PORT_metrics}",
          "--xds-address", "${var.xds_address}", "--ca-hash", "${var.ca_hash}",
          "--nomad-token-file", "/secrets/nomad_controlplane.jwt", "--state-dir", "/alloc/data/sidecar",
          "--zone", "${node.datacenter}",
        ]
        cap_drop = ["all"]
      }

      # Longer than its drain time, 30s, and than the callers take. The client's
      # max_kill_timeout (30s by default) must allow it.
      kill_timeout = "60s"

      resources {
        cpu    = 200
        memory = 256
      }
    }

    task "app" {
      driver = "docker"

      config {
        image        = "busybox:1.37"
        network_mode = "host"
        command      = "httpd"
        args         = ["-f", "-p", "127.0.0.1:${NOMAD_PORT_app}", "-h", "/local"]
      }

      # Where it calls others.
      env {
        MESH_OUTBOUND = "127.0.0.1:${NOMAD_PORT_outbound}"
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
