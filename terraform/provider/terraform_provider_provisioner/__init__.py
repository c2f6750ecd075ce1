"""A Terraform provider over the `provisioner` command, which it starts and never imports: each has an environment of its own."""
