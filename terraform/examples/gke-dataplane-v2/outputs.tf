output "get_credentials" {
  description = "The command that lets kubectl reach the cluster."
  value       = module.cluster.get_credentials
}
