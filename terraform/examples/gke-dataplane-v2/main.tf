terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

provider "google" {
  project = var.project_id
}

module "cluster" {
  source = "../../modules/gke-dataplane-v2"

  project_id          = var.project_id
  name                = var.name
  location            = var.location
  network             = var.network
  subnetwork          = var.subnetwork
  deletion_protection = var.deletion_protection

  private_cluster     = { control_plane_ipv4_cidr = "172.16.0.0/28" }
  observability       = { metrics = true, relay = true }
  fqdn_network_policy = true
  cluster_dns         = { provider = "CLOUD_DNS", scope = "CLUSTER_SCOPE" }

  node_pools = {
    general = { min_count = 1, max_count = 5 }
    batch   = { spot = true, min_count = 0, max_count = 10, taints = [{ key = "batch", value = "yes", effect = "NO_SCHEDULE" }] }
  }
}
