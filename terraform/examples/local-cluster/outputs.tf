output "name" {
  description = "The cluster's name."
  value       = module.cluster.name
}

output "endpoint" {
  description = "The API server."
  value       = module.cluster.endpoint
}

output "kubectl" {
  description = "What to try next."
  value       = "kubectl --kubeconfig ${var.kubeconfig_path} get nodes -o wide"
}
