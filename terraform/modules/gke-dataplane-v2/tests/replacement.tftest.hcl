# One cluster over several applies: what would replace it is refused, and permitted once.
mock_provider "google" {}

variables {
  project_id = "demo-project"
  name       = "demo"
  location   = "europe-west1"
}

run "made" {
  assert {
    condition     = google_container_cluster.this.datapath_provider == "ADVANCED_DATAPATH"
    error_message = "Not a cluster with Dataplane V2."
  }
}

run "what_changes_in_place_may_change" {
  variables {
    cilium_clusterwide_network_policy = true
    labels                            = { team = "network" }
    node_pools                        = { default = { node_count = 3 }, more = {} }
  }
}

run "turning_the_datapath_off_is_refused" {
  command = plan
  variables { dataplane_v2 = false }
  expect_failures = [google_container_cluster.this]
}

run "another_network_is_refused" {
  command = plan
  variables { network = "other" }
  expect_failures = [google_container_cluster.this]
}

run "a_raised_generation_permits_it" {
  variables {
    network                = "other"
    replacement_generation = 1
    deletion_protection    = false
  }
}

run "once" {
  command = plan
  variables {
    network                = "default"
    replacement_generation = 1
  }
  expect_failures = [google_container_cluster.this]
}

run "lowering_it_again_is_no_way_around" {
  command = plan
  variables {
    network                = "other"
    dataplane_v2           = false
    replacement_generation = 1
  }
  expect_failures = [google_container_cluster.this]
}
