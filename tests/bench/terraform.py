"""How long the Terraform provider takes to answer: from its start to the handshake's line, and to its schema over gRPC.

    python -m tests.bench.terraform [--runs N] [--json FILE]

The plugin is started as Terraform starts it: its launcher, with the cookie in the environment. Beside it stands its bare interpreter, which
says how fast the machine was just then. Nothing here asserts a time. The figures go to docs/benchmarks.md by `make bench`.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-terraform" / "bin" / "python"
# Go-plugin's cookie is any value here: the provider asks only whether somebody starts it who knows the name.
ENVIRONMENT = os.environ | {"TF_PLUGIN_MAGIC_COOKIE": "bench"}
# In the plugin's environment: the line's certificate is whom to trust, and the schema is the first thing that Terraform asks for.
CLIENT = """
import base64, ssl, sys
import grpc
from tf.gen import tfplugin_pb2 as pb, tfplugin_pb2_grpc as rpc
import time
for line in sys.stdin:
    _, _, _, address, _, certificate = line.strip().split("|")
    pem = ssl.DER_cert_to_PEM_cert(base64.b64decode(certificate + "=" * (-len(certificate) % 4)))
    credentials = grpc.ssl_channel_credentials(pem.encode())
    start = time.perf_counter()
    with grpc.secure_channel(f"unix://{address}", credentials, [("grpc.ssl_target_name_override", "localhost")]) as channel:
        schema = rpc.ProviderStub(channel).GetProviderSchema(pb.GetProviderSchema.Request())
    assert "provisioner_cluster" in schema.resource_schemas
    print(time.perf_counter() - start, flush=True)
"""


def distribution(values: list[float]) -> dict[str, float]:
    return {"min": round(min(values), 3), "median": round(statistics.median(values), 3), "max": round(max(values), 3), "runs": len(values)}


def measure(runs: int) -> dict[str, Any]:
    """Seconds: a bare interpreter, start to handshake, and start to schema."""
    bare, handshake, schema = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([PYTHON, ROOT / "terraform" / "provider" / "install.py", directory], check=True)
        (launcher,) = Path(directory).glob("mirror/**/terraform-provider-provisioner_v*")
        with subprocess.Popen([PYTHON, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            for _ in range(runs):
                start = time.perf_counter()
                subprocess.run([PYTHON, "-I", "-c", ""], check=True)
                bare.append(time.perf_counter() - start)
                start = time.perf_counter()
                with subprocess.Popen([launcher], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as plugin:
                    assert plugin.stdout is not None
                    line = plugin.stdout.readline()
                    handshake.append(time.perf_counter() - start)
                    client.stdin.write(line)
                    client.stdin.flush()
                    schema.append(handshake[-1] + float(client.stdout.readline()))
                    plugin.terminate()
            client.stdin.close()
    return {"interpreter": distribution(bare), "handshake": distribution(handshake), "schema": distribution(schema)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    text = json.dumps(measure(options.runs), indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
