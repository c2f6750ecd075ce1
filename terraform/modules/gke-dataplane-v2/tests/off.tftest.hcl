# A cluster without Dataplane V2: the argument is left out, and stays what GKE chose.
mock_provider "google" {}

variables {
  project_id = "demo-project"
  name       = "demo"
  location   = "europe-west1"
}

run "off_leaves_the_datapath_out" {
  command = apply

  variables {
    dataplane_v2         = false
    network_policy_addon = true
  }

  override_resource {
    target = google_container_cluster.this
    values = { datapath_provider = "chosen by GKE" }
  }

  assert {
    # Neither LEGACY_DATAPATH nor UNSPECIFIED was given: only then is it the mock's to choose.
    condition     = google_container_cluster.this.datapath_provider == "chosen by GKE"
    error_message = "The datapath argument is given: ${google_container_cluster.this.datapath_provider}."
  }

  assert {
    condition     = google_container_cluster.this.network_policy[0].provider == "CALICO" && !google_container_cluster.this.addons_config[0].network_policy_config[0].disabled
    error_message = "The Calico add-on is not on."
  }
}
