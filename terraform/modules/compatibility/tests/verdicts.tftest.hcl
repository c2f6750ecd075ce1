# No provider, no resource: what the matrix says, and what is refused.
run "a_feature_that_is_there" {
  command = plan

  variables {
    dataplane = "cilium"
    features  = ["l7-http"]
  }

  assert {
    condition     = output.ok && output.verdicts["l7-http"].verdict == "supported"
    error_message = output.message
  }
}

run "the_same_feature_elsewhere" {
  command = plan

  variables {
    dataplane = "gke"
    features  = ["http-policy"]
  }

  assert {
    condition     = !output.ok && output.refusals[0].subject == "l7-http" && output.refusals[0].remedy != ""
    error_message = output.message
  }
}

run "unless_that_is_good_enough" {
  command = plan

  variables {
    dataplane = "gke"
    features  = ["l7-http"]
    accepted  = ["supported", "opt-in", "unsupported"]
  }

  assert {
    condition     = output.ok
    error_message = output.message
  }
}

run "a_feature_that_is_younger" {
  command = plan

  variables {
    dataplane         = "gke"
    features          = ["ccnp"]
    dataplane_version = "1.28.6-gke.1094999"
  }

  assert {
    condition     = !output.ok && strcontains(output.message, "1.28.6-gke.1095000")
    error_message = output.message
  }
}

run "in_its_first_version" {
  command = plan

  variables {
    dataplane         = "gke"
    features          = ["ccnp"]
    dataplane_version = "1.28.6-gke.1095000"
  }

  assert {
    condition     = output.ok
    error_message = output.message
  }
}

run "a_spec_that_cannot_be" {
  command = plan

  variables {
    dataplane = "gke"
    spec      = { dataplane = { version = "v2" }, gke = { enableNetworkPolicy = true } }
  }

  assert {
    condition     = output.refusals[*].subject == ["calico-add-on"]
    error_message = output.message
  }
}

run "a_spec_that_can" {
  command = plan

  variables {
    dataplane = "gke"
    spec      = { dataplane = { version = "v2" }, gke = { enableFqdnNetworkPolicy = true } }
  }

  assert {
    condition     = output.ok && output.findings == []
    error_message = output.message
  }
}

run "words_that_nobody_knows" {
  command = plan

  variables {
    dataplane         = "gke"
    features          = ["l8-policies"]
    dataplane_version = "latest"
    accepted          = ["perhaps"]
  }

  expect_failures = [var.features, var.dataplane_version, var.accepted]
}

run "dataplanes_that_nobody_knows" {
  command = plan

  variables {
    dataplane = "calico"
  }

  expect_failures = [var.dataplane]
}
