locals {
  # What is not given is left out, so that the tool's own defaults hold and its errors name what was written.
  dataplane = { for key, value in {
    version            = "v2"
    routingMode        = var.routing_mode
    mtu                = var.mtu
    masquerade         = var.masquerade
    nonMasqueradeCIDRs = length(var.non_masquerade_cidrs) > 0 ? var.non_masquerade_cidrs : null
  } : key => value if value != null }

  given = { for key, value in {
    provider          = "local"
    numNodes          = var.num_nodes
    kubernetesVersion = var.kubernetes_version
    stackType         = var.stack_type
    podCIDR           = var.pod_cidr
    serviceCIDR       = var.service_cidr
    podCIDRv6         = var.pod_cidr_v6
    serviceCIDRv6     = var.service_cidr_v6
    nodeSubnet        = var.node_subnet
    dataplane         = local.dataplane
  } : key => value if value != null }
}

locals {
  spec = merge(local.given, var.extra_spec, { dataplane = merge(local.dataplane, try(var.extra_spec.dataplane, {})) })
}

resource "provisioner_cluster" "this" {
  name               = var.name
  spec               = jsonencode(local.spec)
  labels             = length(var.labels) > 0 ? var.labels : null
  create_timeout     = var.create_timeout
  delete_timeout     = var.delete_timeout
  on_failure         = var.on_failure
  kubeconfig_path    = var.kubeconfig_path
  kubernetes_bin_dir = var.kubernetes_bin_dir
}

data "provisioner_kubeconfig" "this" {
  count = var.read_credentials ? 1 : 0

  name = provisioner_cluster.this.id
}
