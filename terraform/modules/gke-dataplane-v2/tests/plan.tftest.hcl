# With a mocked Google: what is asked of it, and what is refused before anything is.
mock_provider "google" {}

variables {
  project_id = "demo-project"
  name       = "demo"
  location   = "europe-west1"
}

run "dataplane_v2_is_the_default" {
  command = plan

  assert {
    condition     = google_container_cluster.this.datapath_provider == "ADVANCED_DATAPATH" && google_container_cluster.this.networking_mode == "VPC_NATIVE"
    error_message = "Not a cluster with Dataplane V2."
  }

  assert {
    condition     = length(google_container_cluster.this.network_policy) == 0 && length(google_container_cluster.this.addons_config) == 0
    error_message = "The Calico add-on is mentioned, which GKE refuses with Dataplane V2."
  }

  assert {
    condition     = google_container_cluster.this.deletion_protection
    error_message = "Nothing protects the cluster."
  }

  assert {
    condition     = google_container_node_pool.this["default"].node_count == 1 && length(google_container_node_pool.this["default"].autoscaling) == 0
    error_message = "The default pool is not of one node a zone."
  }
}

run "every_feature_at_once" {
  command = plan

  variables {
    fqdn_network_policy               = true
    cilium_clusterwide_network_policy = true
    in_transit_encryption             = true
    multi_networking                  = true
    observability                     = { relay = true }
    l4_ilb_subsetting                 = true
    l4_lb_firewall_reconciliation     = false
    node_local_dns                    = true
    cluster_dns                       = { provider = "CLOUD_DNS", scope = "CLUSTER_SCOPE" }
    gateway_api                       = true
    private_cluster                   = { control_plane_ipv4_cidr = "172.16.0.0/28" }
    authorized_networks               = { office = "192.0.2.0/24" }
    pods_range_name                   = "pods"
    services_range_name               = "services"
    logging_components                = ["SYSTEM_COMPONENTS"]
    monitoring_components             = []
    managed_prometheus                = true
    node_pools                        = { apps = { min_count = 1, max_count = 5, taints = [{ key = "a", value = "b", effect = "NO_SCHEDULE" }] } }
  }

  assert {
    condition = alltrue([
      google_container_cluster.this.enable_fqdn_network_policy,
      google_container_cluster.this.enable_cilium_clusterwide_network_policy,
      google_container_cluster.this.in_transit_encryption_config == "IN_TRANSIT_ENCRYPTION_INTER_NODE_TRANSPARENT",
      google_container_cluster.this.enable_multi_networking,
      google_container_cluster.this.enable_l4_ilb_subsetting,
      google_container_cluster.this.disable_l4_lb_firewall_reconciliation,
      google_container_cluster.this.addons_config[0].dns_cache_config[0].enabled,
      google_container_cluster.this.dns_config[0].cluster_dns == "CLOUD_DNS",
      google_container_cluster.this.gateway_api_config[0].channel == "CHANNEL_STANDARD",
      google_container_cluster.this.private_cluster_config[0].enable_private_nodes,
      google_container_cluster.this.master_authorized_networks_config[0].cidr_blocks[0].cidr_block == "192.0.2.0/24",
      google_container_cluster.this.ip_allocation_policy[0].cluster_secondary_range_name == "pods",
      google_container_cluster.this.monitoring_config[0].advanced_datapath_observability_config[0].enable_metrics,
      google_container_cluster.this.monitoring_config[0].advanced_datapath_observability_config[0].enable_relay,
      google_container_cluster.this.workload_identity_config[0].workload_pool == "demo-project.svc.id.goog",
      google_container_node_pool.this["apps"].autoscaling[0].max_node_count == 5,
      google_container_node_pool.this["apps"].node_config[0].taint[0].effect == "NO_SCHEDULE",
    ])
    error_message = "A feature that was asked for is not asked of Google."
  }
}

run "autopilot_is_told_nothing_of_nodes_or_datapath" {
  command = plan

  variables {
    autopilot                         = true
    cilium_clusterwide_network_policy = true
  }

  assert {
    condition     = google_container_cluster.this.enable_autopilot && length(google_container_node_pool.this) == 0 && length(google_container_cluster.this.workload_identity_config) == 0
    error_message = "Autopilot is asked for nodes."
  }
}

run "calico_beside_dataplane_v2" {
  command = plan
  variables { network_policy_addon = true }
  expect_failures = [google_container_cluster.this]
}

run "features_of_dataplane_v2_without_it" {
  command = plan
  variables {
    dataplane_v2        = false
    fqdn_network_policy = true
  }
  expect_failures = [google_container_cluster.this]
}

run "clusterwide_policy_without_dataplane_v2" {
  command = plan
  variables {
    dataplane_v2                      = false
    cilium_clusterwide_network_policy = true
  }
  expect_failures = [google_container_cluster.this]
}

run "encryption_without_dataplane_v2" {
  command = plan
  variables {
    dataplane_v2          = false
    in_transit_encryption = true
  }
  expect_failures = [google_container_cluster.this]
}

run "several_networks_without_dataplane_v2" {
  command = plan
  variables {
    dataplane_v2     = false
    multi_networking = true
  }
  expect_failures = [google_container_cluster.this]
}

run "observability_without_dataplane_v2" {
  command = plan
  variables {
    dataplane_v2  = false
    observability = {}
  }
  expect_failures = [google_container_cluster.this]
}

run "autopilot_without_dataplane_v2" {
  command = plan
  variables {
    autopilot    = true
    dataplane_v2 = false
  }
  expect_failures = [var.dataplane_v2]
}

run "encryption_in_autopilot" {
  command = plan
  variables {
    autopilot             = true
    in_transit_encryption = true
  }
  expect_failures = [google_container_cluster.this]
}

run "encryption_of_more_nodes_than_it_carries" {
  command = plan
  variables {
    in_transit_encryption = true
    node_pools            = { many = { min_count = 1, max_count = 167 } }
  }
  expect_failures = [google_container_cluster.this]
}

run "encryption_of_as_many_nodes_as_it_carries" {
  command = plan
  variables {
    in_transit_encryption = true
    node_pools            = { many = { min_count = 1, max_count = 166 } }
  }
}

run "encryption_of_windows_nodes" {
  command = plan
  variables {
    in_transit_encryption = true
    node_pools            = { linux = {}, windows = { image_type = "WINDOWS_LTSC_CONTAINERD" } }
  }
  expect_failures = [google_container_cluster.this]
}

run "names_of_hosts_on_windows_nodes" {
  command = plan
  variables {
    fqdn_network_policy = true
    node_pools          = { linux = {}, windows = { image_type = "WINDOWS_LTSC_CONTAINERD" } }
  }
  expect_failures = [google_container_cluster.this]
}

run "several_networks_in_dual_stack" {
  command = plan
  variables {
    multi_networking = true
    stack_type       = "IPV4_IPV6"
  }
  expect_failures = [google_container_cluster.this]
}

run "fqdn_policy_a_build_too_early" {
  command = plan
  variables {
    fqdn_network_policy = true
    kubernetes_version  = "1.27.1-gke.399"
  }
  expect_failures = [google_container_cluster.this]
}

run "fqdn_policy_in_the_first_build" {
  command = plan
  variables {
    fqdn_network_policy = true
    kubernetes_version  = "1.27.1-gke.400"
  }
}

run "fqdn_policy_in_the_older_minor" {
  command = plan
  variables {
    fqdn_network_policy = true
    kubernetes_version  = "1.26"
  }
}

run "clusterwide_policy_a_build_too_early" {
  command = plan
  variables {
    cilium_clusterwide_network_policy = true
    kubernetes_version                = "1.28.5"
  }
  expect_failures = [google_container_cluster.this]
}

run "clusterwide_policy_in_the_first_build" {
  command = plan
  variables {
    cilium_clusterwide_network_policy = true
    kubernetes_version                = "1.29.1-gke.1016000"
  }
}

run "observability_a_minor_too_early" {
  command = plan
  variables {
    observability      = { relay = true }
    kubernetes_version = "1.27"
  }
  expect_failures = [google_container_cluster.this]
}

run "several_networks_a_build_too_early_in_autopilot" {
  command = plan
  variables {
    autopilot          = true
    multi_networking   = true
    kubernetes_version = "1.29.5-gke.1090999"
  }
  expect_failures = [google_container_cluster.this]
}

run "a_zone_is_too_small_for_so_many" {
  command = plan
  variables {
    location   = "europe-west1-b"
    node_pools = { many = { node_count = 1001 } }
  }
  expect_failures = [google_container_cluster.this]
}

run "pools_of_a_channel_upgrade" {
  command = plan
  variables { node_pools = { still = { auto_upgrade = false } } }
  expect_failures = [google_container_node_pool.this["still"]]
}

run "variables_that_no_cluster_has" {
  command = plan
  variables {
    project_id          = "Demo"
    name                = "1st"
    location            = "Europe"
    labels              = { Team = "network" }
    pods_cidr           = "10.8.0.0"
    services_cidr       = "10.9.0.0/20"
    services_range_name = "services"
    stack_type          = "IPV6"
    max_pods_per_node   = 7
    private_cluster     = { control_plane_ipv4_cidr = "172.16.0.0/24" }
    authorized_networks = { all = "everybody" }
    release_channel     = "SLOW"
    kubernetes_version  = "v1.34"
    cluster_dns         = { provider = "CoreDNS" }
    node_pools          = {}
  }
  expect_failures = [
    var.project_id, var.name, var.location, var.labels, var.pods_cidr, var.services_cidr, var.stack_type, var.max_pods_per_node,
    var.private_cluster, var.authorized_networks, var.release_channel, var.kubernetes_version, var.cluster_dns, var.node_pools,
  ]
}
