# The rules of the feature matrix, which the command line checks too.
module "compatibility" {
  source = "../compatibility"

  dataplane = "gke"
  spec = {
    dataplane = { version = var.dataplane_v2 ? "v2" : "v1" }
    stackType = var.stack_type == "IPV4_IPV6" ? "ipv4-ipv6" : "ipv4"
    gke = {
      autopilot                            = var.autopilot
      clusterVersion                       = var.kubernetes_version
      enableNetworkPolicy                  = var.network_policy_addon
      enableFqdnNetworkPolicy              = var.fqdn_network_policy
      enableCiliumClusterwideNetworkPolicy = var.cilium_clusterwide_network_policy
      inTransitEncryption                  = var.in_transit_encryption ? "inter-node-transparent" : "none"
      enableMultiNetworking                = var.multi_networking
      enableDataplaneV2Metrics             = try(coalesce(var.observability.metrics, false), false)
      enableDataplaneV2FlowObservability   = try(coalesce(var.observability.relay, false), false)
      nodePools                            = [for pool in values(var.node_pools) : { imageType = pool.image_type, numNodes = coalesce(pool.max_count, pool.node_count) } if !var.autopilot]
    }
  }
}

resource "google_container_cluster" "this" {
  name                = var.name
  project             = var.project_id
  location            = var.location
  node_locations      = length(var.node_locations) > 0 ? var.node_locations : null
  resource_labels     = var.labels
  deletion_protection = var.deletion_protection

  enable_autopilot = var.autopilot ? true : null
  # A cluster is made with a pool; this one goes at once, so that every pool is a resource of its own.
  initial_node_count       = var.autopilot ? null : 1
  remove_default_node_pool = var.autopilot ? null : true

  network                   = var.network
  subnetwork                = var.subnetwork
  networking_mode           = "VPC_NATIVE"
  default_max_pods_per_node = var.max_pods_per_node
  min_master_version        = var.kubernetes_version

  # Left out when off: UNSPECIFIED and LEGACY are not the same to the provider, and going from one to the other replaces the cluster.
  # Left out for Autopilot, which takes no datapath and always has this one.
  datapath_provider = var.dataplane_v2 && !var.autopilot ? "ADVANCED_DATAPATH" : null

  enable_fqdn_network_policy               = var.fqdn_network_policy ? true : null
  enable_cilium_clusterwide_network_policy = var.cilium_clusterwide_network_policy ? true : null
  in_transit_encryption_config             = var.in_transit_encryption ? "IN_TRANSIT_ENCRYPTION_INTER_NODE_TRANSPARENT" : null
  enable_multi_networking                  = var.multi_networking ? true : null
  enable_l4_ilb_subsetting                 = var.l4_ilb_subsetting ? true : null
  disable_l4_lb_firewall_reconciliation    = var.l4_lb_firewall_reconciliation ? null : true

  ip_allocation_policy {
    cluster_secondary_range_name  = var.pods_range_name
    services_secondary_range_name = var.services_range_name
    cluster_ipv4_cidr_block       = var.pods_cidr
    services_ipv4_cidr_block      = var.services_cidr
    stack_type                    = var.stack_type
  }

  # With Dataplane V2 the add-on is neither enabled nor disabled: GKE refuses to hear of it.
  dynamic "network_policy" {
    for_each = var.network_policy_addon ? [true] : []

    content {
      enabled  = true
      provider = "CALICO"
    }
  }

  dynamic "addons_config" {
    for_each = var.node_local_dns != null || var.network_policy_addon ? [true] : []

    content {
      dynamic "dns_cache_config" {
        for_each = var.node_local_dns == null ? [] : [var.node_local_dns]

        content {
          enabled = dns_cache_config.value
        }
      }

      dynamic "network_policy_config" {
        for_each = var.network_policy_addon ? [true] : []

        content {
          disabled = false
        }
      }
    }
  }

  dynamic "private_cluster_config" {
    for_each = var.private_cluster == null ? [] : [var.private_cluster]

    content {
      enable_private_nodes    = private_cluster_config.value.private_nodes
      enable_private_endpoint = private_cluster_config.value.private_endpoint
      master_ipv4_cidr_block  = private_cluster_config.value.control_plane_ipv4_cidr
    }
  }

  dynamic "master_authorized_networks_config" {
    for_each = var.authorized_networks == null ? [] : [var.authorized_networks]

    content {
      dynamic "cidr_blocks" {
        for_each = master_authorized_networks_config.value

        content {
          display_name = cidr_blocks.key
          cidr_block   = cidr_blocks.value
        }
      }
    }
  }

  release_channel {
    channel = var.release_channel
  }

  dynamic "workload_identity_config" {
    for_each = var.workload_identity && !var.autopilot ? [true] : []

    content {
      workload_pool = "${var.project_id}.svc.id.goog"
    }
  }

  dynamic "dns_config" {
    for_each = var.cluster_dns == null ? [] : [var.cluster_dns]

    content {
      cluster_dns        = dns_config.value.provider
      cluster_dns_scope  = dns_config.value.scope
      cluster_dns_domain = dns_config.value.domain
    }
  }

  dynamic "gateway_api_config" {
    for_each = var.gateway_api ? [true] : []

    content {
      channel = "CHANNEL_STANDARD"
    }
  }

  dynamic "logging_config" {
    for_each = var.logging_components == null ? [] : [var.logging_components]

    content {
      enable_components = logging_config.value
    }
  }

  dynamic "monitoring_config" {
    for_each = var.monitoring_components != null || var.managed_prometheus != null || var.observability != null ? [true] : []

    content {
      enable_components = var.monitoring_components

      dynamic "managed_prometheus" {
        for_each = var.managed_prometheus == null ? [] : [var.managed_prometheus]

        content {
          enabled = managed_prometheus.value
        }
      }

      dynamic "advanced_datapath_observability_config" {
        for_each = var.observability == null ? [] : [var.observability]

        content {
          enable_metrics = advanced_datapath_observability_config.value.metrics
          enable_relay   = advanced_datapath_observability_config.value.relay
        }
      }
    }
  }

  lifecycle {
    precondition {
      condition     = length(local.changed) == 0
      error_message = "${join(", ", local.changed)} cannot be changed in place: the cluster and all that runs in it would be replaced. Put the value back, or make a new cluster and move; to replace this one all the same, raise replacement_generation by one, with deletion_protection set to false by an apply before."
    }

    precondition {
      condition     = module.compatibility.ok
      error_message = module.compatibility.message
    }

    precondition {
      condition     = !var.in_transit_encryption || local.most_nodes <= 500
      error_message = "in_transit_encryption carries 500 nodes at most, and the node pools may grow to ${local.most_nodes}. Lower node_count or max_count, or leave it out."
    }

    precondition {
      condition     = !var.in_transit_encryption || length(local.windows_pools) == 0
      error_message = "in_transit_encryption does not work on Windows nodes (${join(", ", local.windows_pools)}). Put them into a cluster of their own."
    }

    precondition {
      condition     = !var.fqdn_network_policy || length(local.windows_pools) == 0
      error_message = "fqdn_network_policy does not work on Windows nodes (${join(", ", local.windows_pools)}). Put them into a cluster of their own."
    }

    precondition {
      condition     = !(var.multi_networking && var.autopilot) || local.in_autopilot_version
      error_message = "multi_networking in Autopilot needs GKE 1.29.5-gke.1091000, 1.30.1-gke.1280000 or later. Raise kubernetes_version, or leave it to the channel."
    }

    precondition {
      condition     = !local.is_zonal || local.most_nodes <= 1000
      error_message = "A zonal cluster has 1000 nodes at most, and the node pools may grow to ${local.most_nodes}. Use a region as location, or lower the counts."
    }
  }
}

resource "google_container_node_pool" "this" {
  for_each = var.autopilot ? {} : var.node_pools

  name               = each.key
  project            = var.project_id
  location           = var.location
  cluster            = google_container_cluster.this.name
  node_locations     = each.value.node_locations
  max_pods_per_node  = each.value.max_pods
  node_count         = each.value.max_count == null ? each.value.node_count : null
  initial_node_count = each.value.max_count == null ? null : each.value.min_count

  dynamic "autoscaling" {
    for_each = each.value.max_count == null ? [] : [each.value]

    content {
      min_node_count = autoscaling.value.min_count
      max_node_count = autoscaling.value.max_count
    }
  }

  management {
    auto_repair  = each.value.auto_repair
    auto_upgrade = each.value.auto_upgrade
  }

  upgrade_settings {
    max_surge = each.value.max_surge
  }

  node_config {
    machine_type    = each.value.machine_type
    image_type      = each.value.image_type
    disk_size_gb    = each.value.disk_size_gb
    disk_type       = each.value.disk_type
    spot            = each.value.spot
    labels          = each.value.labels
    tags            = each.value.tags
    service_account = each.value.service_account
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    dynamic "taint" {
      for_each = each.value.taints

      content {
        key    = taint.value.key
        value  = taint.value.value
        effect = taint.value.effect
      }
    }

    dynamic "workload_metadata_config" {
      for_each = var.workload_identity ? [true] : []

      content {
        mode = "GKE_METADATA"
      }
    }
  }

  lifecycle {
    # The autoscaler's work, not a difference to mend.
    ignore_changes = [initial_node_count]

    precondition {
      condition     = var.release_channel == "UNSPECIFIED" || each.value.auto_upgrade
      error_message = "The node pool ${each.key} has auto_upgrade off, which a release channel does not permit. Set it to true, or release_channel to UNSPECIFIED."
    }
  }
}
