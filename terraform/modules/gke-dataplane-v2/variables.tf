variable "project_id" {
  description = "The Google Cloud project."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is no project's id. Give the id (my-project-123456), not the name or the number."
  }
}

variable "name" {
  description = "The cluster's name: lower-case letters, digits and '-', beginning with a letter, 40 at most."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", var.name))
    error_message = "GKE does not take this name. Use at most 40 lower-case letters, digits and '-', beginning with a letter and not ending with '-'."
  }
}

variable "location" {
  description = "A region (europe-west1) for a regional cluster, a zone (europe-west1-b) for a zonal one."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+(-[a-z])?$", var.location))
    error_message = "location is neither a region nor a zone. Write it as europe-west1 or europe-west1-b."
  }
}

variable "node_locations" {
  description = "Zones of the nodes; empty for what GKE chooses."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "labels" {
  description = "Labels of the cluster as a resource of Google Cloud."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for key, value in var.labels : can(regex("^[a-z][-_a-z0-9]{0,62}$", key)) && can(regex("^[-_a-z0-9]{0,63}$", value))])
    error_message = "A label is not one that Google Cloud takes. Use lower-case letters, digits, '-' and '_', 63 at most, a key beginning with a letter."
  }
}

variable "deletion_protection" {
  description = "Refuse to destroy or to replace the cluster. Set it to false, and apply, before either."
  type        = bool
  default     = true
  nullable    = false
}

variable "replacement_generation" {
  description = "What cannot be changed in place (datapath, network, location, …) is refused while this stays as it is. Raise it to permit one replacement."
  type        = number
  default     = 0
  nullable    = false
}

variable "autopilot" {
  description = "An Autopilot cluster: its nodes are Google's, and Dataplane V2 is always on."
  type        = bool
  default     = false
  nullable    = false
}

variable "dataplane_v2" {
  description = "Dataplane V2. When false, the datapath argument is left out altogether, so that GKE's own default holds and nothing is replaced."
  type        = bool
  default     = true
  nullable    = false

  validation {
    condition     = var.dataplane_v2 || !var.autopilot
    error_message = "An Autopilot cluster without Dataplane V2 is not to be had. Set dataplane_v2 to true, or autopilot to false."
  }
}

variable "network" {
  description = "The VPC network: name or self link."
  type        = string
  default     = "default"
  nullable    = false
}

variable "subnetwork" {
  description = "The subnetwork; null for the network's own in an automatic network."
  type        = string
  default     = null
}

variable "pods_range_name" {
  description = "The secondary range of pods; null for pods_cidr or for one that GKE makes."
  type        = string
  default     = null
}

variable "services_range_name" {
  description = "The secondary range of Services; null for services_cidr or for one that GKE makes."
  type        = string
  default     = null
}

variable "pods_cidr" {
  description = "Pods' addresses as a network or a length (/16)."
  type        = string
  default     = null

  validation {
    condition     = var.pods_cidr == null || var.pods_range_name == null
    error_message = "pods_cidr and pods_range_name exclude each other. Leave one out."
  }

  validation {
    condition     = var.pods_cidr == null || can(cidrnetmask(var.pods_cidr)) || can(regex("^/[0-9]{1,2}$", var.pods_cidr))
    error_message = "pods_cidr is no network. Write it as 10.8.0.0/16, or as /16."
  }
}

variable "services_cidr" {
  description = "Services' addresses as a network or a length (/20)."
  type        = string
  default     = null

  validation {
    condition     = var.services_cidr == null || var.services_range_name == null
    error_message = "services_cidr and services_range_name exclude each other. Leave one out."
  }

  validation {
    condition     = var.services_cidr == null || can(cidrnetmask(var.services_cidr)) || can(regex("^/[0-9]{1,2}$", var.services_cidr))
    error_message = "services_cidr is no network. Write it as 10.9.0.0/20, or as /20."
  }
}

variable "stack_type" {
  description = "IPV4 or IPV4_IPV6."
  type        = string
  default     = "IPV4"
  nullable    = false

  validation {
    condition     = contains(["IPV4", "IPV4_IPV6"], var.stack_type)
    error_message = "stack_type is not known. Use IPV4 or IPV4_IPV6."
  }
}

variable "max_pods_per_node" {
  description = "The default of every node pool; null for GKE's."
  type        = number
  default     = null

  validation {
    condition     = var.max_pods_per_node == null || try(var.max_pods_per_node >= 8 && var.max_pods_per_node <= 256, false)
    error_message = "max_pods_per_node is not between 8 and 256. Give one that is, or leave it out."
  }
}

variable "private_cluster" {
  description = "Nodes without public addresses, and perhaps a control plane without one; null for a public cluster."
  type = object({
    private_nodes           = optional(bool, true)
    private_endpoint        = optional(bool, false)
    control_plane_ipv4_cidr = optional(string)
  })
  default = null

  validation {
    condition     = try(var.private_cluster.control_plane_ipv4_cidr, null) == null || try(endswith(var.private_cluster.control_plane_ipv4_cidr, "/28") && can(cidrnetmask(var.private_cluster.control_plane_ipv4_cidr)), false)
    error_message = "control_plane_ipv4_cidr is no /28. Write it as 172.16.0.0/28, or leave it out."
  }
}

variable "authorized_networks" {
  description = "Who may reach the control plane: name -> network; null for anybody who has credentials."
  type        = map(string)
  default     = null

  validation {
    condition     = var.authorized_networks == null || alltrue([for cidr in values(coalesce(var.authorized_networks, {})) : can(cidrhost(cidr, 0))])
    error_message = "authorized_networks has an entry that is no network. Write each as address/length."
  }
}

variable "release_channel" {
  description = "RAPID, REGULAR, STABLE, EXTENDED, or UNSPECIFIED for none."
  type        = string
  default     = "REGULAR"
  nullable    = false

  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE", "EXTENDED", "UNSPECIFIED"], var.release_channel)
    error_message = "release_channel is not known. Use RAPID, REGULAR, STABLE, EXTENDED or UNSPECIFIED."
  }

  validation {
    condition     = !(var.autopilot && var.release_channel == "UNSPECIFIED")
    error_message = "An Autopilot cluster is always in a release channel. Use RAPID, REGULAR, STABLE or EXTENDED."
  }
}

variable "kubernetes_version" {
  description = "The control plane's least version, as in 1.34, 1.34.4 or 1.34.4-gke.1000; null for the channel's default."
  type        = string
  default     = null

  validation {
    condition     = var.kubernetes_version == null || can(regex("^1\\.[0-9]+(\\.[0-9]+(-gke\\.[0-9]+)?)?$", var.kubernetes_version))
    error_message = "kubernetes_version is none of GKE's. Write it as 1.34, 1.34.4 or 1.34.4-gke.1000, or leave it out."
  }
}

variable "network_policy_addon" {
  description = "The Calico add-on of clusters without Dataplane V2, which has NetworkPolicy built in."
  type        = bool
  default     = false
  nullable    = false
}

variable "fqdn_network_policy" {
  description = "FQDNNetworkPolicy. Turning it off again replaces the cluster."
  type        = bool
  default     = false
  nullable    = false
}

variable "cilium_clusterwide_network_policy" {
  description = "CiliumClusterwideNetworkPolicy, layers 3 and 4."
  type        = bool
  default     = false
  nullable    = false
}

variable "in_transit_encryption" {
  description = "Transparent encryption between nodes (WireGuard)."
  type        = bool
  default     = false
  nullable    = false
}

variable "multi_networking" {
  description = "Pods with several networks."
  type        = bool
  default     = false
  nullable    = false
}

variable "observability" {
  description = "Dataplane V2's flow metrics, and the relay that flows are read from."
  type = object({
    metrics = optional(bool, true)
    relay   = optional(bool, false)
  })
  default = null
}

variable "l4_ilb_subsetting" {
  description = "Subsetting of internal passthrough load balancers. Turning it off again replaces the cluster."
  type        = bool
  default     = false
  nullable    = false
}

variable "l4_lb_firewall_reconciliation" {
  description = "Whether GKE keeps the firewall rules of passthrough load balancers."
  type        = bool
  default     = true
  nullable    = false
}

variable "node_local_dns" {
  description = "NodeLocal DNSCache; null for GKE's default."
  type        = bool
  default     = null
}

variable "cluster_dns" {
  description = "Who answers DNS: PLATFORM_DEFAULT, KUBE_DNS or CLOUD_DNS, with scope and domain for the last; null for GKE's default."
  type = object({
    provider = string
    scope    = optional(string)
    domain   = optional(string)
  })
  default = null

  validation {
    condition     = var.cluster_dns == null || contains(["PLATFORM_DEFAULT", "KUBE_DNS", "CLOUD_DNS"], try(var.cluster_dns.provider, ""))
    error_message = "cluster_dns.provider is not known. Use PLATFORM_DEFAULT, KUBE_DNS or CLOUD_DNS."
  }
}

variable "gateway_api" {
  description = "Install the Gateway API's standard channel."
  type        = bool
  default     = false
  nullable    = false
}

variable "workload_identity" {
  description = "Workload identity with the project's own pool."
  type        = bool
  default     = true
  nullable    = false
}

variable "logging_components" {
  description = "Components that log to Cloud Logging; null for GKE's default, empty for none."
  type        = list(string)
  default     = null
}

variable "monitoring_components" {
  description = "Components that Cloud Monitoring watches; null for GKE's default, empty for none."
  type        = list(string)
  default     = null
}

variable "managed_prometheus" {
  description = "Google's managed Prometheus; null for GKE's default."
  type        = bool
  default     = null
}

variable "node_pools" {
  description = "The node pools of a Standard cluster, by name. node_count is a zone's; min_count and max_count turn autoscaling on."
  type = map(object({
    machine_type    = optional(string, "e2-standard-4")
    node_count      = optional(number, 1)
    min_count       = optional(number)
    max_count       = optional(number)
    image_type      = optional(string, "COS_CONTAINERD")
    disk_size_gb    = optional(number, 100)
    disk_type       = optional(string, "pd-balanced")
    spot            = optional(bool, false)
    max_pods        = optional(number)
    node_locations  = optional(list(string))
    labels          = optional(map(string), {})
    tags            = optional(list(string), [])
    taints          = optional(list(object({ key = string, value = string, effect = string })), [])
    service_account = optional(string)
    auto_upgrade    = optional(bool, true)
    auto_repair     = optional(bool, true)
    max_surge       = optional(number, 1)
  }))
  default  = { default = {} }
  nullable = false

  validation {
    condition     = var.autopilot || length(var.node_pools) > 0
    error_message = "A Standard cluster without a node pool runs nothing. Give node_pools an entry, or set autopilot to true."
  }

  validation {
    condition     = alltrue([for pool in values(var.node_pools) : (pool.min_count == null) == (pool.max_count == null)])
    error_message = "min_count and max_count belong together. Give both for autoscaling, or neither."
  }

  validation {
    condition     = alltrue([for pool in values(var.node_pools) : try(pool.min_count <= pool.max_count, true)])
    error_message = "A node pool's min_count is above its max_count. Swap them."
  }

  validation {
    condition     = alltrue(flatten([for pool in values(var.node_pools) : [for taint in pool.taints : contains(["NO_SCHEDULE", "PREFER_NO_SCHEDULE", "NO_EXECUTE"], taint.effect)]]))
    error_message = "A taint's effect is not known. Use NO_SCHEDULE, PREFER_NO_SCHEDULE or NO_EXECUTE."
  }
}
