# Plans alone, with a mocked provider: which specs the module makes of its variables, and which variables it refuses.
mock_provider "provisioner" {
  mock_resource "provisioner_cluster" {
    defaults = {
      effective_spec = "{}"
    }
  }
}

variables {
  name = "demo"
}

run "what_is_not_given_is_left_out" {
  command = plan

  assert {
    condition = jsondecode(provisioner_cluster.this.spec) == {
      provider  = "local"
      numNodes  = 2
      stackType = "ipv4"
      dataplane = { version = "v2", routingMode = "native", masquerade = true }
    }
    error_message = "The spec has ${provisioner_cluster.this.spec}."
  }

  assert {
    condition     = provisioner_cluster.this.kubeconfig_path == null && provisioner_cluster.this.labels == null
    error_message = "Something is set that nobody gave."
  }
}

run "everything_given_is_there" {
  command = plan

  variables {
    num_nodes            = 3
    kubernetes_version   = "1.34.4"
    stack_type           = "ipv4-ipv6"
    routing_mode         = "vxlan"
    mtu                  = 1400
    masquerade           = false
    non_masquerade_cidrs = ["192.0.2.0/24"]
    pod_cidr             = "10.128.0.0/16"
    service_cidr         = "10.99.0.0/16"
    pod_cidr_v6          = "fd00:1::/56"
    service_cidr_v6      = "fd00:2::/112"
    node_subnet          = "172.30.7.0/24"
    labels               = { team = "network" }
    read_credentials     = false
    extra_spec           = { allow = { host-port = "tried" }, dataplane = { mtu = 1300, admission = "off" } }
  }

  assert {
    condition = jsondecode(provisioner_cluster.this.spec) == {
      provider          = "local"
      numNodes          = 3
      kubernetesVersion = "1.34.4"
      stackType         = "ipv4-ipv6"
      podCIDR           = "10.128.0.0/16"
      serviceCIDR       = "10.99.0.0/16"
      podCIDRv6         = "fd00:1::/56"
      serviceCIDRv6     = "fd00:2::/112"
      nodeSubnet        = "172.30.7.0/24"
      dataplane         = { version = "v2", routingMode = "vxlan", mtu = 1300, masquerade = false, nonMasqueradeCIDRs = ["192.0.2.0/24"], admission = "off" }
      allow             = { host-port = "tried" }
    }
    error_message = "The spec has ${provisioner_cluster.this.spec}."
  }

  assert {
    condition     = length(data.provisioner_kubeconfig.this) == 0
    error_message = "The credentials are read though nobody wants them."
  }
}

run "names_are_labels" {
  command = plan
  variables { name = "Demo" }
  expect_failures = [var.name]
}

run "half_a_node_is_none" {
  command = plan
  variables { num_nodes = 1.5 }
  expect_failures = [var.num_nodes]
}

run "versions_have_three_parts" {
  command = plan
  variables { kubernetes_version = "1.34" }
  expect_failures = [var.kubernetes_version]
}

run "stack_types_are_two" {
  command = plan
  variables { stack_type = "ipv6" }
  expect_failures = [var.stack_type]
}

run "routing_modes_are_two" {
  command = plan
  variables { routing_mode = "geneve" }
  expect_failures = [var.routing_mode]
}

run "small_mtus_carry_no_ipv6" {
  command = plan
  variables { mtu = 1000 }
  expect_failures = [var.mtu]
}

run "networks_have_a_length" {
  command = plan
  variables {
    pod_cidr             = "10.244.0.0"
    service_cidr         = "fd00::/112"
    node_subnet          = "nothing"
    non_masquerade_cidrs = ["192.0.2.0"]
  }
  expect_failures = [var.pod_cidr, var.service_cidr, var.node_subnet, var.non_masquerade_cidrs]
}

run "ipv6_networks_want_ipv6" {
  command = plan
  variables {
    pod_cidr_v6     = "fd00:1::/56"
    service_cidr_v6 = "fd00:2::/112"
  }
  expect_failures = [var.pod_cidr_v6, var.service_cidr_v6]
}

run "times_have_units_that_are_known" {
  command = plan
  variables {
    create_timeout = "soon"
    delete_timeout = ""
    on_failure     = "hope"
  }
  expect_failures = [var.create_timeout, var.delete_timeout, var.on_failure]
}
