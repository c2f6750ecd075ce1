"""Kubernetes' own end-to-end specs on a local cluster that this makes and deletes.

    python -m tests.conformance [--focus REGEX] [--skip REGEX] [--nodes N] [--procs N] [--page FILE] [--keep]

Without --focus: the specs of sig-network that are marked [Conformance], and its suite of NetworkPolicies, Netpol, but for those that want SCTP
sockets. `--focus netpol`: the latter alone. `--focus services`: those that are neither, and judge what stands in kube-proxy's place; some of them want three nodes. The reports go to build/conformance/. The exit status is 0 only when specs were run and
all of them passed: one that skips itself has not passed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provisioner.binaries import DEFAULT_VERSION, Binaries, ensure, ensure_part
from provisioner.process import Unlimited, run_command, say
from provisioner.version import __version__
from tests.cluster.conftest import PREFIX, PROVISIONER, spec_file
from tests.cluster.kube import Cluster, run
from tests.conformance import image, report

NAME = f"{PREFIX}conformance"
CONFORMANCE = r"\[sig-network\].*\[Conformance\]"
NETPOL = r"\[sig-network\] Netpol "
# The kernels that this is for have no SCTP; a policy that speaks of SCTP and is tried with other protocols is not among these.
NOT_NETPOL = r"\[Feature:SCTPConnectivity\]"
SERVICES = (
    r"\[sig-network\] (Services|Networking|Conntrack|EndpointSlice|EndpointSliceMirroring|Traffic Distribution|Topology Hints|NoSNAT|"
    r"Connectivity Pod Lifecycle|DNS|Service CIDRs) "
)
# Of those: other features, what restarts parts of the machine by ssh, what wants a cloud, kube-proxy's own pages, the DNS add-on's own configuration.
NOT_SERVICES = r"\[Feature:|\[Disruptive\]|\[Conformance\]|\[Provider:|check kube-proxy urls|DNS configMap"
# Name -> what is selected by it, and what of that is left out.
SELECTIONS = {
    "default": (f"{CONFORMANCE}|{NETPOL}", NOT_NETPOL),
    "netpol": (NETPOL, NOT_NETPOL),
    "services": (SERVICES, NOT_SERVICES),
}
OUTPUT = Path(__file__).resolve().parents[2] / "build" / "conformance"


@contextmanager
def cluster_of(nodes: int, stack: str, archives: Sequence[Path], programs: Binaries, scratch: Path, *, keep: bool) -> Iterator[Cluster]:
    """A cluster with the specs' images on every node, and each node in a zone of its own, as the topology specs want."""
    kubeconfig = scratch / "kubeconfig"
    config = spec_file(scratch, NAME, numNodes=nodes, stackType=stack)
    if not keep:
        run(PROVISIONER, "delete-cluster", NAME, "--quiet", timeout=120, check=False)
    create = [PROVISIONER, "create-cluster", NAME, "--dataplane-v2", "--config", str(config), "--kubeconfig", str(kubeconfig)]
    try:
        subprocess.run([*create, "--timeout", "10m"], check=True, stdout=sys.stderr)
        run(PROVISIONER, "load-image", NAME, *map(str, archives), timeout=600)
        cluster = Cluster(NAME, kubeconfig, {}, "", PROVISIONER, str(programs.path("kubectl")))
        for number, node in enumerate(cluster.nodes()):
            cluster.kubectl("label", "node", node, f"topology.kubernetes.io/zone=zone-{number}", "--overwrite")
        yield cluster
    finally:
        if not keep:
            run(PROVISIONER, "delete-cluster", NAME, "--quiet", timeout=120)


def run_specs(cluster: Cluster, tests: Binaries, registries: Path, options: argparse.Namespace) -> int:
    """Ginkgo's exit status. Its output goes to the terminal and to e2e.log; its reports to OUTPUT."""
    ginkgo = [
        *(str(tests.path("ginkgo")), f"--procs={options.procs}", f"--timeout={options.timeout}", "--no-color", "--silence-skips"),
        *(f"--focus={options.focus}", *([f"--skip={options.skip}"] if options.skip else [])),
        *(f"--output-dir={OUTPUT}", "--junit-report=junit.xml", "--json-report=report.json"),
    ]
    e2e = [
        *("--provider=local", f"--kubeconfig={cluster.kubeconfig}", f"--kubectl-path={cluster.kubectl_path}"),
        # Specs that want two nodes skip themselves in silence where the number is not given.
        *(f"--num-nodes={options.nodes}", f"--kube-test-repo-list={registries}"),
    ]
    # The test program reads the list when it is initialised, before its flags.
    env = {**os.environ, "KUBE_TEST_REPO_LIST": str(registries)}
    with (OUTPUT / "e2e.log").open("wb") as log:
        running = subprocess.Popen(
            [*ginkgo, str(tests.path("e2e.test")), "--", *e2e],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        try:
            assert running.stdout is not None
            while piece := os.read(running.stdout.fileno(), 1 << 16):  # a line is a dot a spec, and takes minutes
                log.write(piece)
                sys.stderr.buffer.write(piece)
                sys.stderr.flush()
            return running.wait()
        finally:
            if running.poll() is None:  # interrupted; what its specs have made goes with the cluster
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def facts(options: argparse.Namespace, tests: Binaries) -> dict[str, str]:
    """What the page says of the run."""
    return {
        "command": "`make conformance`",
        "specs": f"`{options.focus.replace('|', '&#124;')}`",
        "left out": f"`{options.skip}`" if options.skip else "nothing",
        "test program": f"k8s.io/kubernetes/test/e2e {tests.version}",
        "cluster": f"{options.nodes} nodes, {options.stack}, Kubernetes {tests.version}, provisioner {__version__}",
        "kernel": platform.release(),
    }


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m tests.conformance", description="Run upstream's specs on a local cluster.")
    options.add_argument("--focus", default="default", help="regular expression of the specs' texts, or: netpol, services")
    options.add_argument("--skip", default="", help="regular expression of the texts of those that are left out")
    options.add_argument("--nodes", type=int, default=2)
    options.add_argument("--stack", choices=("ipv4", "ipv4-ipv6"), default="ipv4")
    options.add_argument("--procs", type=int, default=4, help="specs that run at once")
    options.add_argument("--timeout", default="2h", help="for all specs together")
    options.add_argument("--page", type=Path, help="write docs/conformance.md's text there")
    options.add_argument("--keep", action="store_true", help="keep the cluster, and use one that was kept")
    chosen = options.parse_args(argv)
    focus, skip = SELECTIONS.get(chosen.focus, (chosen.focus, ""))
    chosen.focus, chosen.skip = focus, "|".join(filter(None, (skip, chosen.skip)))
    return chosen


def main() -> int:
    options = parse()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    programs = ensure(DEFAULT_VERSION, None, Unlimited(), say)
    if not programs.has("agnhost"):
        say("the specs' image needs agnhost, which could not be built here")
        return 1
    tests = ensure_part("e2e", DEFAULT_VERSION, Unlimited(), say)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        registries = scratch / "registries.yaml"
        registries.write_text(image.registries())
        archives = image.write_images(scratch, image.wanted_names(tests.path("e2e.test"), registries), programs, tests)
        with cluster_of(options.nodes, options.stack, archives, programs, scratch, keep=options.keep) as cluster:
            status = run_specs(cluster, tests, registries, options)
    written = OUTPUT / "report.json"
    found = report.specs(json.loads(written.read_text())) if written.exists() else []
    print("\n".join(report.summary(found)))
    if options.page and found:
        options.page.write_text("\n".join(report.page(found, facts(options, tests))) + "\n")
    return 0 if status == 0 and found and all(spec.state == "passed" for spec in found) else 1


if __name__ == "__main__":
    raise SystemExit(run_command(main))
