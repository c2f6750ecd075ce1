"""The plugin protocol's calls, where the framework's own answers are not enough.

The framework does not ask a resource about a creation's plan, decides what is replaced by the schema alone, ends the process when Terraform
asks for a stop, in the middle of what it does, and does not know what Terraform knows of an unknown value (that it is not null, or how it
begins).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack
from tf.gen import tfplugin_pb2 as pb
from tf.provider import ProviderServicer
from tf.types import Unknown
from tf.utils import Diagnostics, read_dynamic_value, to_dynamic_value

if TYPE_CHECKING:
    from terraform_provider_provisioner.provider import Provisioner

# Codes of cty's msgpack extension: an unknown value, and one of which something is known.
_UNKNOWN_CODES = frozenset({0, 12})


class Servicer(ProviderServicer):
    """For one provider."""

    def __init__(self, app: Provisioner) -> None:
        super().__init__(app)
        self._app = app

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:
        return super().ValidateProviderConfig(plain(request), context)

    def ConfigureProvider(self, request: Any, context: Any) -> Any:
        return super().ConfigureProvider(plain(request), context)

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:
        return super().ValidateResourceConfig(plain(request), context)

    def ValidateDataResourceConfig(self, request: Any, context: Any) -> Any:
        return super().ValidateDataResourceConfig(plain(request), context)

    def ApplyResourceChange(self, request: Any, context: Any) -> Any:
        return super().ApplyResourceChange(plain(request), context)

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        self._app.replaced()
        response = super().PlanResourceChange(plain(request), context)
        for argument in self._app.replaced():
            response.requires_replace.add().steps.add().attribute_name = argument
        if read_dynamic_value(request.prior_state) is None and not response.diagnostics:
            diagnostics = Diagnostics()
            resource_class = self._get_res_cls(request.type_name)
            planned = self._decoded(request.type_name, read_dynamic_value(response.planned_state))
            self._app.new_resource(resource_class).plan_create(diagnostics, planned)
            response.diagnostics.extend(diagnostics.to_pb())
        return response

    def StopProvider(self, request: Any, context: Any) -> Any:
        """Interrupt what runs; its calls then end with an error of their own, and Terraform waits for them."""
        self._app.stop()
        return super().StopProvider(request, context)

    def _decoded(self, type_name: str, state: dict[str, Any]) -> dict[str, Any]:
        """In Python's values: the wire has JSON as text."""
        types = {name: attribute.type for name, attribute in self._get_res_attrs(type_name).items()}
        return {name: value if value is Unknown else types[name].decode(value) for name, value in state.items()}


def plain(request: Any) -> Any:
    """The request, with every unknown value the one that the framework understands."""
    for field, value in request.ListFields():
        if isinstance(value, pb.DynamicValue) and value.msgpack:
            getattr(request, field.name).CopyFrom(to_dynamic_value(msgpack.unpackb(value.msgpack, ext_hook=_unknown)))
    return request


def _unknown(code: int, data: bytes) -> Any:
    return Unknown if code in _UNKNOWN_CODES else msgpack.ExtType(code, data)
