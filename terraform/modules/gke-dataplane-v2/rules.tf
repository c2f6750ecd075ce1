# What the cluster's preconditions say. A rule that cannot be judged (no version given) holds.
locals {
  zones_of_a_region = 3
  is_zonal          = length(regexall("-[a-z]$", var.location)) > 0
  zones             = length(var.node_locations) > 0 ? length(var.node_locations) : (local.is_zonal ? 1 : local.zones_of_a_region)
  most_nodes = var.autopilot ? 0 : sum(concat([0], [
    for pool in values(var.node_pools) : coalesce(pool.max_count, pool.node_count) * (pool.node_locations == null ? local.zones : length(pool.node_locations))
  ]))
  windows_pools = var.autopilot ? [] : [for name, pool in var.node_pools : name if startswith(upper(pool.image_type), "WINDOWS")]

  # Minor, and patch and build as one number. Of what is left open GKE takes the newest.
  version_parts = var.kubernetes_version == null ? [] : [for part in regexall("[0-9]+", trimprefix(var.kubernetes_version, "1.")) : tonumber(part)]
  minor         = try(local.version_parts[0], 999)
  build         = try(local.version_parts[1], 999) * local.builds + try(local.version_parts[2], local.builds - 1)
  builds        = 10000000 # more than GKE numbers in a patch
  # The first builds of the minors in which Autopilot has several networks.
  in_autopilot_version = local.minor > 30 || anytrue([for first in [[29, 5, 1091000], [30, 1, 1280000]] :
    local.minor == first[0] && local.build >= first[1] * local.builds + first[2]
  ])

  # Chosen when the cluster is made, and never changed in place.
  immutable = {
    name                = var.name
    project             = var.project_id
    location            = var.location
    autopilot           = var.autopilot
    datapath            = var.dataplane_v2 ? "ADVANCED_DATAPATH" : "GKE's default"
    network             = var.network
    subnetwork          = coalesce(var.subnetwork, "-")
    pods_range_name     = coalesce(var.pods_range_name, "-")
    services_range_name = coalesce(var.services_range_name, "-")
    pods_cidr           = coalesce(var.pods_cidr, "-")
    services_cidr       = coalesce(var.services_cidr, "-")
    max_pods_per_node   = tostring(coalesce(var.max_pods_per_node, 0))
    private_nodes       = tostring(try(coalesce(var.private_cluster.private_nodes, false), false))
  }
  changed = [for key, value in local.immutable : key if try(tostring(terraform_data.as_made.output[key]) != tostring(value), false)]
}

# Remembers what the cluster was made with. Made anew, with the values of then, when replacement_generation changes.
resource "terraform_data" "as_made" {
  input            = local.immutable
  triggers_replace = [var.replacement_generation]

  lifecycle {
    ignore_changes = [input]
  }
}
