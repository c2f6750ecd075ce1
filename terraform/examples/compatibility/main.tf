terraform {
  required_version = ">= 1.9"
}

# What this platform's teams need, wherever their cluster comes from.
module "needs" {
  source = "../../modules/compatibility"

  dataplane         = var.dataplane
  dataplane_version = var.dataplane_version
  features          = var.features
}

# Any resource of yours: with this precondition the plan fails, and says why, before anything is made.
resource "terraform_data" "cluster" {
  input = "a cluster with ${var.dataplane}"

  lifecycle {
    precondition {
      condition     = module.needs.ok
      error_message = module.needs.message
    }
  }
}
