variable "name" {
  description = "The cluster's name."
  type        = string
  default     = "terraform-demo"
}

variable "num_nodes" {
  description = "Nodes that run pods."
  type        = number
  default     = 2
}

variable "command" {
  description = "How provisioner is called. A local cluster needs root: run Terraform as root, or put sudo --non-interactive before it."
  type        = list(string)
  default     = ["provisioner"]
}

variable "kubeconfig_path" {
  description = "Where the credentials go, a file of mode 0600."
  type        = string
  default     = "kubeconfig"

  validation {
    condition     = var.kubeconfig_path != ""
    error_message = "kubeconfig_path is empty. Name a file."
  }
}
