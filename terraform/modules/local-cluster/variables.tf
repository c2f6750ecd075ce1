variable "name" {
  description = "The cluster's name: lower-case letters, digits and '-', 40 at most."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$", var.name))
    error_message = "The name is no DNS-1123 label of at most 40 characters. Use lower-case letters, digits and '-', beginning and ending with a letter or a digit."
  }
}

variable "num_nodes" {
  description = "Nodes that run pods; the control plane is not one of them."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.num_nodes >= 1 && var.num_nodes <= 20 && floor(var.num_nodes) == var.num_nodes
    error_message = "num_nodes is not a whole number from 1 to 20. Give one that is."
  }
}

variable "kubernetes_version" {
  description = "All three parts, as in 1.34.4; null for the tool's own default."
  type        = string
  default     = null

  validation {
    condition     = var.kubernetes_version == null || can(regex("^v?[0-9]+\\.[0-9]+\\.[0-9]+$", var.kubernetes_version))
    error_message = "kubernetes_version has not three parts. Write it as 1.34.4, or leave it out."
  }
}

variable "stack_type" {
  description = "Address families of pods and Services: ipv4 or ipv4-ipv6."
  type        = string
  default     = "ipv4"
  nullable    = false

  validation {
    condition     = contains(["ipv4", "ipv4-ipv6"], var.stack_type)
    error_message = "stack_type is not known. Use ipv4 or ipv4-ipv6."
  }
}

variable "routing_mode" {
  description = "native: the nodes route to each other; vxlan: pods' packets travel in a tunnel."
  type        = string
  default     = "native"
  nullable    = false

  validation {
    condition     = contains(["native", "vxlan"], var.routing_mode)
    error_message = "routing_mode is not known. Use native or vxlan."
  }
}

variable "mtu" {
  description = "Of the pods' devices; null for what the nodes' device carries."
  type        = number
  default     = null

  validation {
    condition     = var.mtu == null || try(var.mtu >= 1280 && var.mtu <= 65535, false)
    error_message = "mtu is not between 1280 and 65535. IPv6 asks every link to carry 1280 octets: give more, or leave it out."
  }
}

variable "masquerade" {
  description = "Whether pods reach the outside behind their node's address."
  type        = bool
  default     = true
  nullable    = false
}

variable "non_masquerade_cidrs" {
  description = "Destinations outside of the cluster that see the pods' own addresses."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.non_masquerade_cidrs : can(cidrhost(cidr, 0))])
    error_message = "non_masquerade_cidrs has an entry that is no network. Write each as address/length."
  }
}

variable "pod_cidr" {
  description = "Pods' addresses, of which each node takes a /24; null for the tool's default, 10.244.0.0/16."
  type        = string
  default     = null

  validation {
    condition     = var.pod_cidr == null || can(cidrnetmask(var.pod_cidr))
    error_message = "pod_cidr is no IPv4 network. Write it as 10.244.0.0/16."
  }
}

variable "service_cidr" {
  description = "Services' addresses; null for the tool's default, 10.96.0.0/16."
  type        = string
  default     = null

  validation {
    condition     = var.service_cidr == null || can(cidrnetmask(var.service_cidr))
    error_message = "service_cidr is no IPv4 network. Write it as 10.96.0.0/16."
  }
}

variable "pod_cidr_v6" {
  description = "Pods' IPv6 addresses, of which each node takes a /64; with stack_type ipv4-ipv6 only."
  type        = string
  default     = null

  validation {
    condition     = var.pod_cidr_v6 == null || var.stack_type == "ipv4-ipv6"
    error_message = "pod_cidr_v6 has no effect with stack_type ipv4. Set stack_type to ipv4-ipv6, or leave it out."
  }
}

variable "service_cidr_v6" {
  description = "Services' IPv6 addresses; with stack_type ipv4-ipv6 only."
  type        = string
  default     = null

  validation {
    condition     = var.service_cidr_v6 == null || var.stack_type == "ipv4-ipv6"
    error_message = "service_cidr_v6 has no effect with stack_type ipv4. Set stack_type to ipv4-ipv6, or leave it out."
  }
}

variable "node_subnet" {
  description = "The nodes' own network; null for a free one."
  type        = string
  default     = null

  validation {
    condition     = var.node_subnet == null || can(cidrnetmask(var.node_subnet))
    error_message = "node_subnet is no IPv4 network. Write it as 172.30.7.0/24, or leave it out."
  }
}

variable "extra_spec" {
  description = "Fields of the document's spec that have no variable here, as in { dataplane = { admission = \"warn\" } }; they win."
  type        = any
  default     = {}
  nullable    = false

  validation {
    condition     = can(keys(var.extra_spec)) && can(keys(try(var.extra_spec.dataplane, {})))
    error_message = "extra_spec is not an object, or its dataplane is not. Write it as { dataplane = { ... } }."
  }
}

variable "labels" {
  description = "Labels of the cluster, given to every node too."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "create_timeout" {
  description = "For a whole create: 90s, 30m, 1h30m. The first on a machine may have to build the Kubernetes programs."
  type        = string
  default     = "30m"
  nullable    = false

  validation {
    condition     = can(regex("^([0-9]+h)?([0-9]+m)?([0-9]+s?)?$", var.create_timeout)) && var.create_timeout != ""
    error_message = "create_timeout is not a time. Write 90s, 30m or 1h30m."
  }
}

variable "delete_timeout" {
  description = "For a whole delete."
  type        = string
  default     = "5m"
  nullable    = false

  validation {
    condition     = can(regex("^([0-9]+h)?([0-9]+m)?([0-9]+s?)?$", var.delete_timeout)) && var.delete_timeout != ""
    error_message = "delete_timeout is not a time. Write 90s, 5m or 1h30m."
  }
}

variable "on_failure" {
  description = "keep what a failed create has made, so that the next apply continues it, or delete it."
  type        = string
  default     = "keep"
  nullable    = false

  validation {
    condition     = contains(["keep", "delete"], var.on_failure)
    error_message = "on_failure is not known. Use keep or delete."
  }
}

variable "kubeconfig_path" {
  description = "A kubeconfig that the credentials are merged into, mode 0600; null for none."
  type        = string
  default     = null
}

variable "read_credentials" {
  description = "Whether the outputs have the credentials. They are then in Terraform's state, too; kubeconfig_path is the way without."
  type        = bool
  default     = true
  nullable    = false
}

variable "kubernetes_bin_dir" {
  description = "A directory with the Kubernetes, etcd and CoreDNS programs to use; null for the cache, a release or a build."
  type        = string
  default     = null
}
