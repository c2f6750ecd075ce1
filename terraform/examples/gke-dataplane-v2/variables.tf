variable "project_id" {
  description = "The Google Cloud project."
  type        = string
}

variable "name" {
  description = "The cluster's name."
  type        = string
  default     = "dataplane-v2"
}

variable "location" {
  description = "A region or a zone."
  type        = string
  default     = "europe-west1"
}

variable "network" {
  description = "The VPC network."
  type        = string
  default     = "default"
}

variable "subnetwork" {
  description = "The subnetwork; null for the network's own."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Set it to false, and apply, before a destroy."
  type        = bool
  default     = true
}
