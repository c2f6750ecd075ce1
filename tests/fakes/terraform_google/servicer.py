"""The tables of `schema` over the plugin protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc
from tf.types import Unknown
from tf.utils import read_dynamic_value, to_dynamic_value

from tests.fakes.terraform_google.schema import PROVIDER, RESOURCES, Block

# What the cloud chooses, by type.
CHOSEN: Mapping[str, Any] = {"string": "chosen", "number": 1, "bool": False, "list": [], "set": [], "map": {}}


def type_of(text: str) -> bytes:
    """`string` or `map(string)`, as the protocol writes types."""
    outer, _, inner = text.removesuffix(")").partition("(")
    return json.dumps([outer, inner] if inner else outer).encode()


def block_of(block: Block) -> pb.Schema.Block:
    made = pb.Schema.Block()
    for name, text in block.arguments.items():
        kind, marks = text.rsplit(" ", 1)
        made.attributes.add(name=name, type=type_of(kind), required="!" in marks, optional="?" in marks, computed="=" in marks)
    for name, nested in block.blocks.items():
        # `timeouts` is the one block that the plugin SDK makes single.
        single = name == "timeouts"
        nesting = pb.Schema.NestedBlock.NestingMode.SINGLE if single else pb.Schema.NestedBlock.NestingMode.LIST
        made.block_types.add(type_name=name, block=block_of(nested), nesting=nesting, max_items=0 if single else nested.max)
    return made


def with_unknowns(block: Block, values: Mapping[str, Any], prior: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is computed and not given is unknown until it is applied, or stays as it was."""
    made = dict(values)
    for name, text in block.arguments.items():
        if made[name] is None and "=" in text:
            made[name] = Unknown if prior is None or prior[name] is None else prior[name]
    for name, nested in block.blocks.items():
        if isinstance(made[name], list):
            before = (prior or {}).get(name) or []
            pairs = [(entry, before[index] if index < len(before) else None) for index, entry in enumerate(made[name])]
            made[name] = [with_unknowns(nested, entry, old) for entry, old in pairs]
    return made


def replacing(block: Block, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[list[str | int]]:
    """Paths of what changed and may not."""
    for name, text in block.arguments.items():
        if "*" in text.rsplit(" ", 1)[1] and old[name] != new[name]:
            yield [name]
    for name, nested in block.blocks.items():
        before, after = old[name] or [], new[name] or []
        if isinstance(before, dict) or isinstance(after, dict):
            continue
        if nested.replaces and len(before) != len(after):
            yield [name]
        for index, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from ([name, index, *path] for path in replacing(nested, one, other))


def known(block: Block, values: Mapping[str, Any]) -> dict[str, Any]:
    """After an apply nothing is unknown: what the cloud would have chosen has a value that stands for it."""
    made = dict(values)
    for name, text in block.arguments.items():
        if made[name] is Unknown:
            made[name] = CHOSEN[text.split("(")[0].split(" ")[0]]
    for name, nested in block.blocks.items():
        if isinstance(made[name], list):
            made[name] = [known(nested, entry) for entry in made[name]]
    return made


class Servicer(tfplugin_pb2_grpc.ProviderServicer):
    """Keeps nothing: Terraform's state is all the memory there is."""

    def GetMetadata(self, request: Any, context: Any) -> Any:
        return pb.GetMetadata.Response()

    def GetProviderSchema(self, request: Any, context: Any) -> Any:
        response = pb.GetProviderSchema.Response(provider=pb.Schema(block=block_of(PROVIDER)))
        for name, block in RESOURCES.items():
            response.resource_schemas[name].CopyFrom(pb.Schema(version=1, block=block_of(block)))
        return response

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateProviderConfig.Response()

    def ConfigureProvider(self, request: Any, context: Any) -> Any:
        return pb.ConfigureProvider.Response()

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:
        response = pb.ValidateResourceConfig.Response()
        config = read_dynamic_value(request.config)
        for one, other in RESOURCES[request.type_name].conflicts:
            if all(config[name] not in (None, [], False, Unknown) for name in (one, other)):
                response.diagnostics.add(severity=pb.Diagnostic.ERROR, summary="Conflicting configuration arguments",
                                         detail=f'"{one}": conflicts with {other}')  # fmt: skip
        return response

    def UpgradeResourceState(self, request: Any, context: Any) -> Any:
        return pb.UpgradeResourceState.Response(upgraded_state=to_dynamic_value(json.loads(request.raw_state.json)))

    def ReadResource(self, request: Any, context: Any) -> Any:
        return pb.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        block = RESOURCES[request.type_name]
        prior, proposed = read_dynamic_value(request.prior_state), read_dynamic_value(request.proposed_new_state)
        if proposed is None:
            return pb.PlanResourceChange.Response(planned_state=request.proposed_new_state)
        planned = with_unknowns(block, proposed, prior)
        response = pb.PlanResourceChange.Response(planned_state=to_dynamic_value(planned))
        for path in replacing(block, prior, planned) if prior else ():
            steps = [
                pb.AttributePath.Step(attribute_name=step) if isinstance(step, str) else pb.AttributePath.Step(element_key_int=step)
                for step in path
            ]
            response.requires_replace.add().steps.extend(steps)
        return response

    def ApplyResourceChange(self, request: Any, context: Any) -> Any:
        planned = read_dynamic_value(request.planned_state)
        if planned is None:
            prior = read_dynamic_value(request.prior_state)
            response = pb.ApplyResourceChange.Response(new_state=request.planned_state)
            if prior.get("deletion_protection"):
                response = pb.ApplyResourceChange.Response(new_state=request.prior_state)
                response.diagnostics.add(
                    severity=pb.Diagnostic.ERROR, summary="Cannot destroy cluster because deletion_protection is set to true."
                )
            return response
        return pb.ApplyResourceChange.Response(new_state=to_dynamic_value(known(RESOURCES[request.type_name], planned)))

    def StopProvider(self, request: Any, context: Any) -> Any:
        return pb.StopProvider.Response()
