"""Serve a provider to the Terraform that started this process, over a unix socket: one line on stdout says where, then gRPC.

The framework's own runner keeps a private key in the user's cache, and ends in the middle of a call when it is asked to stop. Here the key
lives as long as the process, calls end by themselves, and when Terraform is gone, so is this. Nobody but the user reaches the socket: its
directory is 0700. Terraform's own certificate, with a curve (P-521) that gRPC's TLS library does not take, cannot be asked for.
"""

from __future__ import annotations

import base64
import datetime as dt
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

PROTOCOL = 6
COOKIE = "TF_PLUGIN_MAGIC_COOKIE"
_THREADS = 10
_MESSAGE_BYTES = 256 << 20
_POLL_SECONDS = 0.5
_CERTIFICATE_DAYS = 30


def serve(servicer: Any, stop: Callable[[], None]) -> int:
    """Until Terraform says goodbye or is gone; the exit code. `stop` is called when it went without a word."""
    if COOKIE not in os.environ:
        sys.stderr.write("This is a plugin of Terraform, which starts it. See docs/terraform.md.\n")
        return 1
    import grpc
    from tf.gen import tfplugin_pb2_grpc

    parent = os.getppid()
    # Ctrl-C at a terminal is for Terraform, which then says what it wants.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    goodbye = threading.Event()
    left = threading.Event()  # alone: whoever started this is gone, or wants it gone
    signal.signal(signal.SIGTERM, lambda _number, _frame: left.set())
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=_THREADS),
        options=[("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)],
    )
    tfplugin_pb2_grpc.add_ProviderServicer_to_server(servicer, server)
    _add_plugin_services(server, goodbye)
    with tempfile.TemporaryDirectory(prefix="terraform-provider-") as directory:
        socket = f"{directory}/socket"
        certificate, credentials = _identity()
        server.add_secure_port(f"unix://{socket}", credentials)
        server.start()
        sys.stdout.write(f"1|{PROTOCOL}|unix|{socket}|grpc|{base64.b64encode(certificate).decode().rstrip('=')}\n")
        sys.stdout.flush()
        while not goodbye.wait(_POLL_SECONDS):
            if left.is_set() or os.getppid() != parent:
                stop()
                break
        server.stop(grace=None).wait()
    return 0


def _add_plugin_services(server: Any, goodbye: threading.Event) -> None:
    """What go-plugin asks for beside the provider: a goodbye, and a stream of output that it also reads from stderr."""
    from tf.gen import grpc_controller_pb2, grpc_controller_pb2_grpc, grpc_stdio_pb2_grpc

    class Controller(grpc_controller_pb2_grpc.GRPCControllerServicer):
        def Shutdown(self, request: Any, context: Any) -> Any:
            # When the answer is on its way: a server that stops cancels what it is still saying.
            context.add_callback(goodbye.set)
            return grpc_controller_pb2.Empty()

    class Output(grpc_stdio_pb2_grpc.GRPCStdioServicer):
        def StreamStdio(self, request: Any, context: Any) -> Any:
            return iter(())

    grpc_controller_pb2_grpc.add_GRPCControllerServicer_to_server(Controller(), server)
    grpc_stdio_pb2_grpc.add_GRPCStdioServicer_to_server(Output(), server)


def _identity() -> tuple[bytes, Any]:
    """A certificate for this process (DER), and the server's credentials."""
    import grpc
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=_CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    credentials = grpc.ssl_server_credentials([(private, certificate.public_bytes(serialization.Encoding.PEM))])
    return certificate.public_bytes(serialization.Encoding.DER), credentials
