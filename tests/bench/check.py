"""How long the gates take, and how much memory: `check` on 5 000 manifests and on 50 MB of them, `features`, and --help beside them.

    python -m tests.bench.check [--runs N] [--json FILE]

Each is a process of its own, started as a user starts it. Nothing here asserts a time. The figures go to docs/benchmarks.md by `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFESTS = 5000
LARGE_BYTES = 50_000_000
COMMAND = [sys.executable, "-m", "provisioner.cli.main"]
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web-{number}
  namespace: team-{team}
  labels: {{app.kubernetes.io/name: web, app.kubernetes.io/instance: web-{number}, team: team-{team}}}
spec:
  replicas: 3
  selector:
    matchLabels: {{app.kubernetes.io/instance: web-{number}}}
  template:
    metadata:
      labels: {{app.kubernetes.io/instance: web-{number}}}
    spec:
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: web
          image: registry.example.com/web:{number}
          ports:
            - name: http
              containerPort: 8080
          env:
            - name: TEAM
              value: "team-{team}"
            - name: NODE
              valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}
          resources:
            requests: {{cpu: 100m, memory: 64Mi}}
            limits: {{memory: 128Mi}}
          readinessProbe:
            httpGet: {{path: /ready, port: http}}
            periodSeconds: 5
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {{name: web-{number}, namespace: team-{team}}}
spec:
  selector: {{app.kubernetes.io/instance: web-{number}}}
  ports:
    - {{name: http, port: 80, targetPort: http}}
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: web-{number}, namespace: team-{team}}}
spec:
  podSelector: {{matchLabels: {{app.kubernetes.io/instance: web-{number}}}}}
  ingress:
    - from: [{{podSelector: {{matchLabels: {{role: front}}}}}}]
      ports: [{{protocol: TCP, port: 8080}}]
"""
CONFIG = """\
apiVersion: v1
kind: ConfigMap
metadata: {{name: web-{number}, namespace: team-{team}}}
data:
  settings.yaml: |
    number: {number}
    listen: 0.0.0.0:8080
"""
KINDS = (DEPLOYMENT, SERVICE, DEPLOYMENT, CONFIG, POLICY)


def manifests() -> Iterator[str]:
    """As teams have them: deployments, Services, ConfigMaps, NetworkPolicies, without end."""
    number = 0
    while True:
        yield KINDS[number % len(KINDS)].format(number=number, team=number % 40)
        number += 1


def measured(*arguments: str) -> tuple[float, float, float]:
    """Wall seconds, seconds of CPU and MiB at most of one run, whose exit code may be that of findings."""
    start = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, 2}:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    return taken, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def distribution(runs: int, *arguments: str) -> dict[str, float]:
    results = [measured(*arguments) for _ in range(runs)]
    seconds = [taken for taken, _, _ in results]
    return {
        "min": round(min(seconds), 3),
        "median": round(statistics.median(seconds), 3),
        "max": round(max(seconds), 3),
        "cpu": round(statistics.median(cpu for _, cpu, _ in results), 3),
        "mib": round(max(memory for _, _, memory in results), 1),
        "runs": runs,
    }


def write(directory: Path) -> None:
    """One file a manifest, a directory a team."""
    for number, text in zip(range(MANIFESTS), manifests(), strict=False):
        target = directory / f"team-{number % 40}"
        target.mkdir(exist_ok=True)
        (target / f"{number}.yaml").write_text(text)


def write_large(file: Path) -> int:
    """One file, as a tool prints it; the number of manifests."""
    count = 0
    with file.open("w") as stream:
        for text in manifests():
            stream.write(f"---\n{text}")
            count += 1
            if stream.tell() >= LARGE_BYTES:
                return count
    return count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        small, large = Path(directory) / "small", Path(directory) / "large.yaml"
        small.mkdir()
        write(small)
        count = write_large(large)
        result: dict[str, Any] = {
            "help": distribution(options.runs, "--help"),
            "features": distribution(options.runs, "features"),
            "check": {"manifests": MANIFESTS, **distribution(options.runs, "check", str(small), "--output", "json")},
            "check_large": {"bytes": large.stat().st_size, "manifests": count, **distribution(1, "check", str(large), "--output", "json")},
        }
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
