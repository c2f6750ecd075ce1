terraform {
  required_version = ">= 1.9"

  required_providers {
    provisioner = {
      source  = "provisioner.dev/provisioner/provisioner"
      version = ">= 0.1"
    }
  }
}
