output "verdicts" {
  description = "What the matrix says of each."
  value       = { for feature, cell in module.needs.verdicts : feature => cell.verdict }
}
