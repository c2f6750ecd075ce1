"""`features`: what each dataplane can do, and what not. `recommend`: which of them has what is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner import errors
from provisioner.cli import options
from provisioner.cli.output import Format, columns, emit

if TYPE_CHECKING:
    from provisioner.compatibility.model import Feature

_NO_DATAPLANE = 2


def features(
    feature: Annotated[str, typer.Argument(metavar="[FEATURE]", help="Show this one in full.", show_default=False)] = "",
    rules: Annotated[bool, typer.Option("--rules", help="List the rules that the gates check.")] = False,
    output: options.Output = Format.TABLE,
) -> None:
    """Show what each dataplane supports, why, and the way out."""
    from provisioner.compatibility import matrix

    found = matrix.load()
    if feature:
        one = found.feature(feature)
        own = [rule for rule in found.rules.values() if rule.feature is one]
        data = matrix.feature_data(one) | {"rules": [matrix.rule_data(rule) for rule in own]}
        emit(data, output, _text(one, [rule.id for rule in own]))
        return
    if rules:
        data = {"rules": [matrix.rule_data(rule) for rule in found.rules.values()]}
        rows = [(rule.id, rule.feature.id, ", ".join(rule.kinds)) for rule in found.rules.values()]
        emit(data, output, columns(("RULE", "FEATURE", "KINDS"), rows))
        return
    table = [(item.id, *(cell.verdict.value for cell in item.cells.values()), item.title) for item in found.features.values()]
    data = {} if output is Format.TABLE else matrix.export(found)
    emit(data, output, columns(("FEATURE", "GKE", "ANETD", "CILIUM", "WHAT"), table))


def recommend(
    need: Annotated[
        list[str],
        typer.Option("--need", metavar="FEATURE,...", help="What is needed; may be repeated. `provisioner features` lists names."),
    ],
    output: options.Output = Format.TABLE,
) -> None:
    """Say which dataplane has everything that is needed, and why the others do not. Exit code 2 when none does."""
    from provisioner.compatibility import matrix
    from provisioner.compatibility.recommend import advise

    found = matrix.load()
    names = [name for text in need for name in text.split(",") if name.strip()]
    if not names:
        raise errors.Usage("--need names no feature", remedy="Write it as in --need hubble,l7-http.", field="--need")
    wanted = list({item.id: item for item in (found.feature(name) for name in names)}.values())
    advice = advise(wanted)
    best = advice[0]
    data: dict[str, Any] = {
        "needs": [item.id for item in wanted],
        "recommended": best.dataplane.value if not best.lacks else None,
        "certain": best.fits,
        "dataplanes": [
            {
                "dataplane": one.dataplane.value,
                "fits": one.fits,
                "needs": [
                    {
                        "feature": item.id,
                        "verdict": item.cell(one.dataplane).verdict.value,
                        "reason": item.cell(one.dataplane).reason,
                        "wayOut": item.way_out,
                    }
                    for item in wanted
                ],
            }
            for one in advice
        ],
    }
    lines = [_headline(data)]
    for one in advice:
        head = (
            "has all of it"
            if one.fits
            else f"lacks {', '.join(one.lacks)}"
            if one.lacks
            else f"not certain: {', '.join(one.open_questions)}"
        )
        lines.append(f"{one.dataplane.value}: {head}")
        lines += [f"  {item.id}: {_verdict(item, one.dataplane.value)}" for item in wanted]
        lines += [f"    instead: {item.way_out}" for item in wanted if item.id in one.lacks]
    emit(data, output, "\n".join(lines))
    if best.lacks:
        raise typer.Exit(_NO_DATAPLANE)


def _headline(data: dict[str, Any]) -> str:
    needs = ", ".join(data["needs"])
    if data["recommended"] is None:
        return f"No dataplane has all of {needs}."
    return f"For {needs}: {data['recommended']}" + ("." if data["certain"] else ", though not all of it is certain.")


def _verdict(feature: Feature, dataplane: str) -> str:
    from provisioner.compatibility.model import Dataplane

    cell = feature.cell(Dataplane(dataplane))
    since = f" from {' or '.join(cell.since)} on" if cell.since else ""
    return f"{cell.verdict.value}{since}{'. ' + cell.reason if cell.reason else ''}"


def _text(feature: Feature, rules: list[str]) -> str:
    lines = [f"{feature.title} ({feature.id})"]
    for dataplane, cell in feature.cells.items():
        lines.append(f"  {dataplane.value + ':':<8}{_verdict(feature, dataplane.value)}")
        lines += [f"          source: {source}" for source in cell.sources]
    lines.append(f"  instead: {feature.way_out}")
    if rules:
        lines.append(f"  rules:   {', '.join(rules)}")
    return "\n".join(lines)
