variable "dataplane" {
  description = "Whose verdicts count: gke, anetd or cilium."
  type        = string
  nullable    = false

  validation {
    condition     = contains(local.matrix.dataplanes, var.dataplane)
    error_message = "dataplane is not in the matrix. Use ${join(", ", local.matrix.dataplanes)}."
  }
}

variable "features" {
  description = "Features that are needed, by id or by one of the words that `provisioner recommend --need` takes."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for feature in var.features : contains(keys(local.matrix.words), feature)])
    error_message = "features has what the matrix does not know: ${join(", ", [for feature in var.features : feature if !contains(keys(local.matrix.words), feature)])}. `provisioner features` lists all."
  }
}

variable "dataplane_version" {
  description = "The dataplane's version, as in 1.29.1-gke.1016000; null when it does not matter. A feature that is younger is refused."
  type        = string
  default     = null

  validation {
    condition     = var.dataplane_version == null || can(regex("^v?[0-9]+(\\.[0-9]+){0,2}(-gke\\.[0-9]+)?$", var.dataplane_version))
    error_message = "dataplane_version is no version. Write it as 1.29, 1.29.1 or 1.29.1-gke.1016000."
  }
}

variable "accepted" {
  description = "Verdicts that are good enough."
  type        = set(string)
  default     = ["supported", "opt-in"]
  nullable    = false

  validation {
    condition     = length(setsubtract(var.accepted, ["supported", "opt-in", "unvetted", "unsupported", "unknown"])) == 0
    error_message = "accepted has what is no verdict. Use supported, opt-in, unvetted, unsupported and unknown."
  }
}

variable "spec" {
  description = "The `spec` of a cluster's document, to be judged by the rules about specs: { dataplane = { version = \"v2\" }, gke = { autopilot = true } }; null for none."
  type        = any
  default     = null
}
