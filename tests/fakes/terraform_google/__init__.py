"""A stand-in for the `google` provider of Terraform: the schema of what our module uses of it, and no cloud behind it.

Source of the schema: the provider's documentation of google_container_cluster and google_container_node_pool, version 7. What is not listed
is refused by Terraform as unknown; what conflicts or replaces is marked as it is there. `apply` keeps what was planned.
"""
