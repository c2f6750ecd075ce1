"""The provider under a real Terraform, over the real command line with a provider in memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.kube import eventually

from .conftest import PROVIDER_PYTHON, ROOT, Done, Machine, Terraform

Configured = Callable[..., Path]
CLUSTER = "provisioner_cluster.demo"
APPLY = ("apply", "-auto-approve", "-input=false")
CHANGES = ("plan", "-detailed-exitcode", "-input=false")


def cluster(spec: str = "numNodes = 3", *lines: str, name: str = "demo") -> str:
    inner = "\n".join(lines)
    return f'resource "provisioner_cluster" "demo" {{\n name = "{name}"\n spec = jsonencode({{ {spec} }})\n{inner}\n}}\n'


def test_a_cluster_is_made_read_and_removed(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    directory = configured(
        cluster("numNodes = 3", 'labels = { team = "network" }')
        + 'data "provisioner_kubeconfig" "demo" { name = provisioner_cluster.demo.id }\n'
        + 'output "key" {\n value = data.provisioner_kubeconfig.demo.client_key\n sensitive = true\n}\n'
        + 'output "host" { value = data.provisioner_kubeconfig.demo.host }\n'
    )
    applied = terraform.run(directory, *APPLY)
    assert machine.clusters()["demo"]["numNodes"] == 3
    assert machine.clusters()["demo"]["spec"]["metadata"]["labels"] == {"team": "network"}
    assert terraform.outputs(directory) == {"key": "VERY SECRET KEY", "host": "https://172.30.0.2:6443"}
    assert "VERY SECRET KEY" not in applied.out + applied.err
    assert terraform.ask(directory, *CHANGES).code == 0
    assert [part for call in machine.calls() for part in call if "kubeconfig" in part and part != "--kubeconfig"] == ["--no-kubeconfig"]
    terraform.run(directory, "destroy", "-auto-approve")
    assert machine.clusters() == {}


def test_what_is_the_same_cluster_stays_and_what_is_another_replaces_it(
    terraform: Terraform, machine: Machine, configured: Configured
) -> None:
    directory = configured(cluster("numNodes = 3"))
    terraform.run(directory, *APPLY)
    configured(cluster('numNodes = 3, podCIDR = "10.244.0.0/16", kubernetesVersion = "v1.34.4"'))
    written_out = terraform.run(directory, *APPLY)
    assert "0 added, 1 changed, 0 destroyed" in written_out.out
    assert terraform.ask(directory, *CHANGES).code == 0
    configured(cluster("numNodes = 2"))
    planned = terraform.ask(directory, *CHANGES, "-out=plan")
    assert planned.code == 2
    assert "1 to add, 0 to change, 1 to destroy" in planned.out
    assert "forces replacement" in planned.out
    terraform.run(directory, "apply", "plan")
    assert machine.clusters()["demo"]["numNodes"] == 2


def test_a_spec_that_is_not_known_yet_is_planned_as_another(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    """Terraform tells of such a text how it begins, which makes another kind of unknown of it."""
    source = 'resource "terraform_data" "nodes" {{ input = {} }}\n'
    directory = configured(source.format(3) + cluster("numNodes = terraform_data.nodes.output"))
    terraform.run(directory, *APPLY)
    assert terraform.ask(directory, *CHANGES).code == 0
    configured(source.format(4) + cluster("numNodes = terraform_data.nodes.output"))
    replaced = terraform.run(directory, *APPLY)
    assert "forces replacement" in replaced.out
    assert machine.clusters()["demo"]["numNodes"] == 4


def test_what_happened_outside_is_seen_and_mended(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    directory = configured(cluster())
    terraform.run(directory, *APPLY)
    machine.provisioner("stop-cluster", "demo")
    assert "0 added, 1 changed, 0 destroyed" in terraform.run(directory, *APPLY).out
    assert machine.clusters()["demo"]["state"] == "RUNNING"
    machine.provisioner("delete-cluster", "demo", "--quiet")
    assert "1 to add, 0 to change, 0 to destroy" in terraform.ask(directory, *CHANGES).out
    machine.provisioner("create-cluster", "demo", "--dataplane-v2", "--num-nodes", "7", "--no-kubeconfig")
    other = terraform.ask(directory, *CHANGES)
    assert "1 to add, 0 to change, 1 to destroy" in other.out
    assert "numNodes" in other.out


def test_a_cluster_that_is_there_is_imported(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    machine.provisioner("create-cluster", "demo", "--dataplane-v2", "--num-nodes", "3", "--no-kubeconfig")
    directory = configured(cluster("numNodes = 3"))
    assert "There is no cluster nothing" in terraform.ask(directory, "import", CLUSTER, "nothing").text
    terraform.run(directory, "import", CLUSTER, "demo")
    assert terraform.state(directory, CLUSTER)["endpoint"] == "https://172.30.0.2:6443"
    assert re.search(r"0 added, [01] changed, 0 destroyed", terraform.run(directory, *APPLY).out)
    assert terraform.ask(directory, *CHANGES).code == 0


def test_another_cluster_of_that_name_is_not_touched(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    machine.provisioner("create-cluster", "demo", "--dataplane-v2", "--num-nodes", "7", "--no-kubeconfig")
    refused = terraform.ask(configured(cluster("numNodes = 3")), *APPLY)
    assert refused.code == 1
    assert "numNodes" in refused.text
    assert "terraform import" in refused.text
    assert machine.clusters()["demo"]["numNodes"] == 7


def resource(label: str, *lines: str) -> str:
    return f'resource "provisioner_cluster" "{label}" {{\n' + "\n".join(lines) + "\n}\n"


WRITTEN = (
    (resource("timeout", 'name = "a"', 'create_timeout = "soon"'), "create_timeout 'soon' is not a time"),
    (resource("failure", 'name = "b"', 'on_failure = "hope"'), "Use keep or delete"),
    (resource("list", 'name = "c"', 'spec = "[1]"'), "spec is not an object"),
    (resource("text", 'name = "d"', 'spec = "{"'), "spec is not JSON"),
    (resource("cloud", 'name = "h"', 'spec = jsonencode({ provider = "gke" })'), "this resource makes local clusters"),
)
ASKED = (
    (resource("number", 'name = "e"', "spec = jsonencode({ numNodes = 0 })"), "spec.numNodes"),
    (resource("field", 'name = "f"', "spec = jsonencode({ numNodez = 3 })"), "spec.numNodez"),
    (resource("name", 'name = "Demo"'), "metadata.name"),
    (resource("gate", 'name = "g"', 'spec = jsonencode({ dataplane = { version = "v1" } })'), "refused-by-gate"),
)


@pytest.mark.parametrize("mistakes", [WRITTEN, ASKED], ids=["by-itself", "by-the-command"])
def test_what_cannot_be_is_said_when_it_is_planned(
    terraform: Terraform, machine: Machine, configured: Configured, mistakes: tuple[tuple[str, str], ...]
) -> None:
    planned = terraform.ask(configured("".join(body for body, _ in mistakes)), "plan", "-input=false")
    assert planned.code == 1
    for _, said in mistakes:
        assert said in planned.text
    assert machine.clusters() == {}


def interrupted(terraform: Terraform, machine: Machine, directory: Path, number: int) -> str:
    """Apply, and send `number` to terraform while the create is at work; what it said."""
    machine.hold.touch()
    process = terraform.start(directory, *APPLY)
    try:
        eventually(lambda: machine.clusters().get("demo", {}).get("state") == "INCOMPLETE", within=180, what="a create at work")
        process.send_signal(number)
        out, err = process.communicate(timeout=180)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    return Done(process.returncode, out, err).text


def test_an_interrupted_apply_is_continued_by_the_next(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    directory = configured(cluster())
    said = interrupted(terraform, machine, directory, signal.SIGINT)
    assert "Run terraform apply again: it continues" in said
    assert "provisioner delete-cluster demo" in said
    assert machine.clusters()["demo"]["state"] == "INCOMPLETE"
    eventually(lambda: not commands_of(machine), within=60, what="the interrupted command has ended")
    machine.hold.unlink()
    applied = terraform.run(directory, *APPLY)
    assert "1 added, 0 changed, 0 destroyed" in applied.out
    assert machine.clusters()["demo"]["state"] == "RUNNING"
    assert terraform.ask(directory, *CHANGES).code == 0


def test_a_killed_terraform_takes_its_command_with_it(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    directory = configured(cluster())
    interrupted(terraform, machine, directory, signal.SIGKILL)
    eventually(lambda: not commands_of(machine), within=60, what="the provider has interrupted its command")
    assert machine.clusters()["demo"]["state"] == "INCOMPLETE"
    machine.hold.unlink()
    terraform.run(directory, *APPLY, "-lock=false")
    assert machine.clusters()["demo"]["state"] == "RUNNING"


def test_a_create_that_takes_too_long_says_so_and_is_continued(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    directory = configured(cluster("numNodes = 3", 'create_timeout = "1s"'))
    machine.hold.touch()
    late = terraform.ask(directory, *APPLY)
    assert late.code == 1
    assert "(timeout, exit code 8)" in late.text
    assert "Run terraform apply again: it continues" in late.text
    machine.hold.unlink()
    configured(cluster("numNodes = 3"))
    terraform.run(directory, *APPLY)
    assert machine.clusters()["demo"]["state"] == "RUNNING"


def commands_of(machine: Machine) -> list[str]:
    """The creates over this machine that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(machine.directory) in line and "create-cluster" in line:
            found.append(line)
    return found


def test_a_command_that_is_not_there_is_named(terraform: Terraform, configured: Configured) -> None:
    directory = configured(cluster())
    text = (directory / "main.tf").read_text()
    (directory / "main.tf").write_text(text.replace(json.dumps(sys.executable), '"/nowhere/provisioner"'))
    planned = terraform.ask(directory, "plan")
    assert planned.code == 1
    assert "/nowhere/provisioner cannot be started: No such file or directory" in planned.text


def test_by_hand_the_plugin_says_what_it_is() -> None:
    if not PROVIDER_PYTHON.exists():
        pytest.skip("the Terraform provider's environment is not there: .ci/setup terraform")
    code = "import sys; sys.path.insert(0, 'terraform/provider'); from terraform_provider_provisioner.main import main; sys.exit(main())"
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run([PROVIDER_PYTHON, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Terraform" in done.stderr
    assert done.stdout == ""


POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec: {endpointSelector: {}}
"""


def test_the_matrix_is_asked_of_features_and_documents(terraform: Terraform, configured: Configured) -> None:
    directory = configured(
        f'locals {{\n policy = <<-EOT\n{POLICY}EOT\n}}\n'
        + "".join(
            f'data "provisioner_compatibility" "{dataplane}" {{\n dataplane = "{dataplane}"\n features = ["http-policy"]\n'
            f' documents = local.policy\n}}\noutput "{dataplane}" {{ value = data.provisioner_compatibility.{dataplane} }}\n'
            for dataplane in ("gke", "cilium")
        )
    )  # fmt: skip
    terraform.run(directory, *APPLY)
    gke, cilium = terraform.outputs(directory)["gke"], terraform.outputs(directory)["cilium"]
    assert (gke["ok"], cilium["ok"]) == (False, True)
    assert gke["verdicts"] == {"l7-http": "unsupported"}
    assert [line.split(":")[0] for line in gke["refusals"]] == ["l7-http", "cilium-network-policy"]
    assert gke["message"].count("\n") == 1
    assert cilium["verdicts"] == {"l7-http": "supported"}
    assert cilium["refusals"] == []


def test_a_feature_or_dataplane_that_nobody_knows_is_named(terraform: Terraform, configured: Configured) -> None:
    unknown = terraform.ask(configured('data "provisioner_compatibility" "x" {\n dataplane = "gke"\n features = ["l8"]\n}\n'), "plan")
    assert "there is no feature 'l8'" in unknown.text.lower()
    calico = terraform.ask(configured('data "provisioner_compatibility" "x" { dataplane = "calico" }\n'), "plan")
    assert "Use gke, anetd, cilium" in calico.text


def test_a_cluster_that_another_command_works_on_is_waited_for(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    directory = configured(cluster())
    machine.busy.write_text("2")  # so many creates find it busy: the plan's, and the first of the apply
    applied = terraform.run(directory, *APPLY)
    assert "1 added" in applied.out
    assert machine.clusters()["demo"]["state"] == "RUNNING"


def test_what_somebody_else_said_is_shown(terraform: Terraform, machine: Machine, configured: Configured) -> None:
    """As when sudo wants a password: no JSON, and the reason is in the last lines."""
    directory = configured(cluster())
    text = (directory / "main.tf").read_text()
    script = 'echo "sudo: a password is required" >&2; exit 1'
    (directory / "main.tf").write_text(text.replace(json.dumps(machine.command), json.dumps(["sh", "-c", script])))
    planned = terraform.ask(directory, "plan")
    assert planned.code == 1
    assert "sudo: a password is required" in planned.text
