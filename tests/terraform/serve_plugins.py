"""Providers as servers that many runs of Terraform share, instead of a process each: Google's stub, and ours for its schema.

    .venv-terraform/bin/python -m tests.terraform.serve_plugins DIRECTORY

A socket each in DIRECTORY. It says `ready` when it is, and ends with its stdin.
"""

from __future__ import annotations

import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from tf.gen import tfplugin_pb2_grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "terraform" / "provider"))

from terraform_provider_provisioner.provider import Provisioner
from terraform_provider_provisioner.servicer import Servicer as Ours

from tests.fakes.terraform_google.servicer import Servicer as Google


def served(servicer: Any, socket: Path) -> grpc.Server:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    tfplugin_pb2_grpc.add_ProviderServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    return server


def main(directory: Path) -> None:
    servers = [served(Google(), directory / "google"), served(Ours(Provisioner()), directory / "provisioner")]
    print("ready", flush=True)
    sys.stdin.read()
    for server in servers:
        server.stop(grace=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
