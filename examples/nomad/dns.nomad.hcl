# A name server with its sidecar in one group: both tasks share the group's network namespace.
# The clients' Docker driver must allow the capability: plugin "docker" { config { allow_caps = ["net_admin", …] } }
job "dns" {
  datacenters = ["dc1"]
  type        = "service"

  group "dns" {
    count = 2

    constraint {
      distinct_hosts = true
    }

    # "bridge" needs a BGP speaker on the node, as in examples/kubernetes/topologies.md; "host" and a CNI network in
    # the router's VLAN ("cni/macvlan") do not.
    network {
      mode = "cni/macvlan"
    }

    task "dns" {
      driver = "docker"
      config {
        image = "coredns/coredns:1.12.2"
        args  = ["-conf", "/local/Corefile"]
      }
      template {
        destination = "local/Corefile"
        data        = <<-COREFILE
          . {
            template IN A health.example { answer "health.example. 5 IN A 127.0.0.1" }
            forward . 9.9.9.9
            errors
          }
        COREFILE
      }
      resources {
        cpu    = 200
        memory = 64
      }
    }

    task "sidecast" {
      driver = "docker"
      # The leader is stopped first, and the others wait for its end: the route goes, traffic ends or drain_time passes, then the
      # name server stops. A task with a `lifecycle` of a sidecar would be stopped last.
      leader       = true
      kill_timeout = "15s"
      config {
        image           = "sidecast:0.1.0"
        readonly_rootfs = true
        cap_drop        = ["all"]
        cap_add         = ["net_admin"]
      }
      env {
        SIDECAST_BGP_LOCAL_AS   = "65001"
        SIDECAST_BGP_PEER_AS    = "65000"
        SIDECAST_BGP_HOLD_TIME  = "9s"
        SIDECAST_APP_NAME       = "dns"
        SIDECAST_APP_VIP        = "192.0.2.53/32"
        SIDECAST_APP_MONITORS   = "port:udp:53;dns:health.example@vip"
        SIDECAST_APP_INTERVAL   = "2s"
        SIDECAST_APP_DRAIN_TIME = "5s"
      }
      resources {
        cpu    = 20
        memory = 16
      }
    }
  }
}
