"""The core over gRPC, as container.googleapis.com:443 speaks it, without TLS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from google.cloud.container_v1 import types
from google.protobuf import any_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.fakes.gke.core import Core, ServerError

_SERVICE = "google.container.v1.ClusterManager"
_METHODS = {
    "CreateCluster": ("create_cluster", types.CreateClusterRequest),
    "ListClusters": ("list_clusters", types.ListClustersRequest),
    "GetCluster": ("get_cluster", types.GetClusterRequest),
    "UpdateCluster": ("update_cluster", types.UpdateClusterRequest),
    "DeleteCluster": ("delete_cluster", types.DeleteClusterRequest),
    "SetNetworkPolicy": ("set_network_policy", types.SetNetworkPolicyRequest),
    "SetLabels": ("set_labels", types.SetLabelsRequest),
    "ListOperations": ("list_operations", types.ListOperationsRequest),
    "GetOperation": ("get_operation", types.GetOperationRequest),
    "GetServerConfig": ("get_server_config", types.GetServerConfigRequest),
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass
class GrpcServer:
    """A context manager: serves `core` on a port of 127.0.0.1 while it is open; `local` to clients with credentials of their own."""

    core: Core
    local: bool = False
    address: str = ""
    _server: Any = field(default=None, repr=False)

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(8, thread_name_prefix="fake-gke"))
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._handler(method),
                request_deserializer=request.pb().FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (method, request) in _METHODS.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        anywhere, trusted = "127.0.0.1:0", grpc.local_server_credentials()
        port = self._server.add_secure_port(anywhere, trusted) if self.local else self._server.add_insecure_port(anywhere)
        self.address = f"127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.core.released.set()
        self._server.stop(0).wait()

    def _handler(self, method: str) -> Any:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            fault = self.core.take_fault(method)
            if fault == "hang":
                self.core.released.wait(60)
            try:
                if isinstance(fault, ServerError):
                    raise fault
                answer = empty_pb2.Empty() if fault in {"hang", "reset"} else self.core.call(method, request)
            except ServerError as error:
                _abort(context, error)
            if fault in {"hang", "reset", "reset-after", "half"}:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            with self.core.lock:
                copy = type(answer)()
                copy.CopyFrom(answer)
            return copy

        return handle


def _abort(context: grpc.ServicerContext, error: ServerError) -> None:
    status = status_pb2.Status(code=error.code, message=error.message)
    if error.reason:
        info = any_pb2.Any()
        info.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain="googleapis.com", metadata=error.metadata))
        status.details.append(info)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(_CODES[error.code], error.message)
