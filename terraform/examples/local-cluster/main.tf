terraform {
  required_version = ">= 1.9"

  required_providers {
    provisioner = {
      source  = "provisioner.dev/provisioner/provisioner"
      version = ">= 0.1"
    }
  }
}

provider "provisioner" {
  command = var.command
}

module "cluster" {
  source = "../../modules/local-cluster"

  name             = var.name
  num_nodes        = var.num_nodes
  kubeconfig_path  = var.kubeconfig_path
  read_credentials = false
}
