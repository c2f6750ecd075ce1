output "id" {
  description = "projects/P/locations/L/clusters/NAME."
  value       = google_container_cluster.this.id
}

output "name" {
  description = "The cluster's name, known once the cluster is there."
  value       = google_container_cluster.this.name
}

output "location" {
  description = "Its region or zone."
  value       = google_container_cluster.this.location
}

output "endpoint" {
  description = "The API server: https://address."
  value       = "https://${google_container_cluster.this.endpoint}"
}

output "cluster_ca_certificate" {
  description = "Whom to trust, PEM."
  value       = try(base64decode(google_container_cluster.this.master_auth[0].cluster_ca_certificate), null)
}

output "master_version" {
  description = "The control plane's version."
  value       = google_container_cluster.this.master_version
}

output "datapath_provider" {
  description = "What GKE says of the datapath."
  value       = google_container_cluster.this.datapath_provider
}

output "node_pools" {
  description = "The node pools' ids, by name."
  value       = { for name, pool in google_container_node_pool.this : name => pool.id }
}

output "get_credentials" {
  description = "The command that lets kubectl reach the cluster."
  value       = "gcloud container clusters get-credentials ${var.name} --location ${var.location} --project ${var.project_id}"
}
