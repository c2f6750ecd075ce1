output "ok" {
  description = "Whether nothing is refused: the condition of a precondition."
  value       = length(local.refusals) == 0
}

output "message" {
  description = "What is refused, why, and the way out, a line each: the error_message of a precondition."
  value       = length(local.refusals) == 0 ? "Nothing is refused." : join("\n", [for refusal in local.refusals : "${refusal.subject}: ${refusal.reason} ${refusal.remedy}"])
}

output "refusals" {
  description = "The same as a list of { subject, reason, remedy }; subject is a feature's or a rule's id."
  value       = local.refusals
}

output "findings" {
  description = "Every rule that the spec trips, warnings and notes too: a list of { subject, severity, reason, remedy }."
  value       = local.findings
}

output "verdicts" {
  description = "The features that were asked for, by id: { title, verdict, reason, since, way_out }."
  value       = local.verdicts
}

output "matrix" {
  description = "All verdicts of the dataplane: feature -> verdict."
  value       = { for id, feature in local.matrix.features : id => feature.verdicts[var.dataplane].verdict }
}
