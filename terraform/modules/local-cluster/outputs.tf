output "name" {
  description = "The cluster's name, known once the cluster is there."
  value       = provisioner_cluster.this.id
}

output "endpoint" {
  description = "The API server: https://address:port."
  value       = provisioner_cluster.this.endpoint
}

output "state" {
  description = "RUNNING, or what was found instead."
  value       = provisioner_cluster.this.state
}

output "kubernetes_version" {
  description = "The version that runs."
  value       = provisioner_cluster.this.kubernetes_version
}

output "spec" {
  description = "What the cluster has, with every default written out."
  value       = jsondecode(provisioner_cluster.this.effective_spec)
}

output "kubeconfig" {
  description = "A whole kubeconfig, or null without read_credentials."
  value       = one(data.provisioner_kubeconfig.this[*].kubeconfig)
  sensitive   = true
}

output "cluster_ca_certificate" {
  description = "Whom to trust, PEM, or null without read_credentials."
  value       = one(data.provisioner_kubeconfig.this[*].cluster_ca_certificate)
}

output "client_certificate" {
  description = "The administrator's certificate, PEM, or null without read_credentials."
  value       = one(data.provisioner_kubeconfig.this[*].client_certificate)
  sensitive   = true
}

output "client_key" {
  description = "The administrator's key, PEM, or null without read_credentials."
  value       = one(data.provisioner_kubeconfig.this[*].client_key)
  sensitive   = true
}
