variable "dataplane" {
  description = "gke, anetd or cilium."
  type        = string
  default     = "gke"
}

variable "dataplane_version" {
  description = "Its version, if that is known."
  type        = string
  default     = null
}

variable "features" {
  description = "What is needed."
  type        = set(string)
  default     = ["network-policy", "ccnp"]
}
