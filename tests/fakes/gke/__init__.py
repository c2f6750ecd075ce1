"""A GKE for tests: the ClusterManager service over REST/JSON and gRPC, both in front of one core. Google's own clients judge it."""

from tests.fakes.gke.core import Core, Fault, ServerError
from tests.fakes.gke.grpc_server import GrpcServer
from tests.fakes.gke.rest import RestServer

__all__ = ["Core", "Fault", "GrpcServer", "RestServer", "ServerError"]
