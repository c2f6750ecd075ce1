"""`terraform test` of every module, their examples, and what is generated in them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provisioner.compatibility import check, matrix
from provisioner.compatibility.model import Condition, Dataplane, Place

from .conftest import EXAMPLES, MODULES, ROOT, Terraform, installer

DIRECTORIES = [path for top in (MODULES, EXAMPLES) for path in sorted(top.iterdir())]


def copied(directory: Path) -> Path:
    """All of terraform/ but what a run leaves, so that nothing is written into the checkout."""
    return Path(shutil.copytree(ROOT / "terraform", directory / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*")))


@pytest.mark.parametrize("module", sorted(path.name for path in MODULES.iterdir()))
def test_a_module_does_what_its_tests_say(shared_plugins: Terraform, module: str, tmp_path: Path) -> None:
    directory = copied(tmp_path) / "modules" / module
    assert list(directory.glob("tests/*.tftest.hcl"))
    shared_plugins.init(directory)
    done = shared_plugins.ask(directory, "test")
    assert done.code == 0, done.out + done.err
    assert re.search(r"Success! [1-9]\d* passed, 0 failed", done.out), done.out


def test_the_local_example_is_valid(shared_plugins: Terraform, tmp_path: Path) -> None:
    """It is applied in the cluster suite."""
    directory = copied(tmp_path) / "examples" / "local-cluster"
    shared_plugins.init(directory)
    shared_plugins.run(directory, "validate")


def test_the_gke_example_is_planned(shared_plugins: Terraform, tmp_path: Path) -> None:
    directory = copied(tmp_path) / "examples" / "gke-dataplane-v2"
    shared_plugins.init(directory)
    planned = shared_plugins.run(directory, "plan", "-var=project_id=demo-project").out
    assert re.search(r'datapath_provider +-? ?= "ADVANCED_DATAPATH"', planned)
    assert "4 to add, 0 to change, 0 to destroy" in planned


def test_the_compatibility_example_refuses_what_the_matrix_refuses(shared_plugins: Terraform, tmp_path: Path) -> None:
    directory = copied(tmp_path) / "examples" / "compatibility"
    shared_plugins.init(directory)
    shared_plugins.run(directory, "plan")
    refused = shared_plugins.ask(directory, "plan", '-var=features=["l7-http"]')
    assert refused.code == 1
    assert "l7-http: L7 policy for HTTP is unsupported on gke." in refused.text
    shared_plugins.run(directory, "plan", '-var=features=["l7-http"]', "-var=dataplane=cilium")


def test_the_provider_imports_nothing_of_the_tool() -> None:
    """Their environments cannot be one. The import contracts do not see this package, which is not installed beside the tool."""
    for source in (ROOT / "terraform" / "provider").rglob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (\w+)", source.read_text(), re.MULTILINE)
        assert not {"provisioner", "agent", "tests"} & set(imported), source


def test_a_checkout_that_moved_is_initialised_anew(terraform: Terraform, tmp_path: Path) -> None:
    """The provider's hash is its launcher's, which names the checkout."""
    mirror = tmp_path / "mirror"
    install = installer()
    where = (mirror, install.ADDRESS, install.VERSION, "terraform_provider_provisioner.main")
    install.configure(tmp_path / "terraform.rc", mirror, install.ADDRESS)
    moved = replace(terraform, configuration=tmp_path / "terraform.rc")
    (tmp_path / "main.tf").write_text(
        'terraform {\n required_providers {\n provisioner = { source = "provisioner.dev/provisioner/provisioner" }\n }\n}\n'
    )
    install.install(*where, Path("/before"), sys.executable)
    moved.init(tmp_path)
    install.install(*where, Path("/after"), sys.executable)
    shutil.rmtree(tmp_path / ".terraform")
    assert "doesn't match any of the checksums" in moved.ask(tmp_path, "init").text
    (tmp_path / ".terraform.lock.hcl").unlink()
    moved.init(tmp_path)


def test_the_sources_are_formatted(shared_plugins: Terraform) -> None:
    assert shared_plugins.ask(ROOT / "terraform", "fmt", "-check", "-recursive", "-list=true").out == ""


def test_what_is_generated_is_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "terraform" / "generate.py", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("directory", DIRECTORIES, ids=[f"{path.parent.name}/{path.name}" for path in DIRECTORIES])
def test_a_readme_has_inputs_and_outputs_and_nothing_is_untyped_or_undescribed(directory: Path) -> None:
    readme = (directory / "README.md").read_text()
    for kind, label, body in blocks(directory):
        assert "description" in body, label
        assert kind == "output" or "  type " in body, label
        assert f"| `{label}` |" in readme, label


def blocks(directory: Path) -> Iterator[tuple[str, str, str]]:
    for name in ("variables.tf", "outputs.tf"):
        if (directory / name).exists():
            yield from re.findall(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', (directory / name).read_text(), re.MULTILINE | re.DOTALL)


SPEC_RULES = [rule for rule in matrix.load().rules.values() if check.SPEC_KIND in rule.kinds]
# For the one operator whose value does not say what it holds for.
MATCHING = ("WINDOWS_LTSC_CONTAINERD",)
# Beside a rule's own floors: a minor alone, a minor line between two floors, a newer one, and no version.
VERSIONS = ("1.26", "1.27.0", "1.99.0", "latest")


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of every rule: a spec for which all its conditions hold, and near misses that lack one, at every place that it looks at."""
    for rule in SPEC_RULES:
        for number, place in enumerate(rule.each or ("",)):
            for left_out in (None, *rule.when):
                held = [condition for condition in rule.when if condition is not left_out]
                missed = "" if left_out is None else f" without {left_out.path}"
                yield f"{rule.id} {number}{missed}", made_of(place, held)
            for condition in rule.when:
                if condition.op == "older":
                    others = made_of(place, [other for other in rule.when if other is not condition])
                    for version in {*condition.value, *VERSIONS}:
                        yield f"{rule.id} {version}", merged(place, condition.path, version, others)


def made_of(place: str, conditions: Sequence[Condition]) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for condition in conditions:
        if condition.op not in {"differs", "absent"}:
            spec = merged(place, condition.path, holding(condition), spec)
    return spec


def holding(condition: Condition) -> Any:
    match condition.op:
        case "equals":
            return condition.value
        case "above":
            return condition.value + 1
        case "below":
            return condition.value - 1
        case "in":
            return condition.value[0]
        case "older":
            return "1.0.0"
        case "matches":
            return next(text for text in MATCHING if re.search(condition.value, text))
        case _:
            return "something"


def merged(place: str, path: str, value: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """A copy of a spec with a value at a path below a rule's place; a list on the way has one item."""
    copy = dict(json.loads(json.dumps(spec)))
    *parents, last = [name for name in f"{place}.{path}".split(".") if name][1:]
    inner = copy
    for parent in parents:
        inner = inner.setdefault(parent.removesuffix("[*]"), [{}] if parent.endswith("[*]") else {})
        inner = inner[0] if isinstance(inner, list) else inner
    inner[last] = value
    return copy


def test_the_compatibility_module_judges_specs_as_the_command_line_does(shared_plugins: Terraform, tmp_path: Path) -> None:
    specs = dict(cases())
    wanted = {name: judged(spec) for name, spec in specs.items()}
    assert {rule for findings in wanted.values() for rule in findings} == {rule.id for rule in SPEC_RULES}
    (tmp_path / "specs.json").write_text(json.dumps(specs))
    (tmp_path / "main.tf").write_text(
        f"""
        module "each" {{
          source    = "{MODULES / "compatibility"}"
          for_each  = jsondecode(file("${{path.module}}/specs.json"))
          dataplane = "gke"
          spec      = each.value
        }}
        output "findings" {{
          value = {{ for name, one in module.each : name => {{ for finding in one.findings : finding.subject => finding }} }}
        }}
        """
    )
    shared_plugins.init(tmp_path)
    shared_plugins.run(tmp_path, "plan", "-out=plan")
    planned = json.loads(shared_plugins.run(tmp_path, "show", "-json", "plan").out)["planned_values"]["outputs"]
    assert planned["findings"]["value"] == wanted


def judged(spec: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What the command line finds, in the module's words."""
    document = {
        "apiVersion": "provisioner.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "demo"},
        "spec": {"provider": "gke", **spec},
    }
    gate = check.Gate(matrix.load(), Dataplane.GKE)
    return {
        finding.rule: {"subject": finding.rule, "severity": finding.severity.value, "reason": finding.reason, "remedy": finding.remedy}
        for finding in check.judge(check.SPEC_KIND, document, Place(), gate)
    }


def test_the_google_stub_replaces_what_google_replaces(shared_plugins: Terraform, tmp_path: Path) -> None:
    """A cluster without Dataplane V2 stays what it is, apply after apply; a cluster that may not be destroyed is not."""
    copied(tmp_path)
    body = """
        module "cluster" {
          source       = "./terraform/modules/gke-dataplane-v2"
          project_id   = "demo-project"
          name         = "demo"
          location     = "europe-west1"
          dataplane_v2 = false
        }
    """
    (tmp_path / "main.tf").write_text(body)
    shared_plugins.init(tmp_path)
    shared_plugins.run(tmp_path, "apply", "-auto-approve")
    assert shared_plugins.ask(tmp_path, "plan", "-detailed-exitcode").code == 0
    (tmp_path / "main.tf").write_text(body.replace("dataplane_v2 = false", 'dataplane_v2 = false\n labels = { team = "network" }'))
    assert "0 to add, 1 to change, 0 to destroy" in shared_plugins.ask(tmp_path, "plan").out
    (tmp_path / "main.tf").write_text(body.replace("dataplane_v2 = false", "dataplane_v2 = true"))
    refused = shared_plugins.ask(tmp_path, "plan")
    assert refused.code == 1
    assert "datapath cannot be changed in place" in refused.text
    (tmp_path / "main.tf").write_text(body)
    destroyed = shared_plugins.ask(tmp_path, "destroy", "-auto-approve")
    assert destroyed.code == 1
    assert "deletion_protection" in destroyed.text
