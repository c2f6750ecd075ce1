"""The entry points: the commands gathered, and every error turned into its text and exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import typer

from provisioner import errors
from provisioner.cli.output import Format, emit_error

# Typer carries a Click of its own, and of its errors only this one has a public name: its parents are the rest.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

# In the order of --help. Each is the function, or the program of several, of its name in a module of that name.
_COMMANDS = (
    *("create-cluster", "stop-cluster", "delete-cluster", "list-clusters", "describe-cluster", "get-credentials", "load-image"),
    *("deploy", "check", "features", "recommend", "render", "schema", "sweep", "version", "policy", "trace"),
)
_OTHER_MODULE = {"recommend": "features"}

_SETTINGS = {"help_option_names": ["-h", "--help"]}


def _app(help_text: str | None = None) -> typer.Typer:
    # Without markup, help does not load rich: a quarter of the time that --help may take.
    return typer.Typer(
        help=help_text, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=_SETTINGS, no_args_is_help=False
    )


def _program(arguments: Sequence[str]) -> typer.Typer:
    """All commands, or the one that a line begins with: to import and describe the others would take longer than most of them run."""
    app = _app("Kubernetes clusters whose dataplane is eBPF.")
    app.callback(invoke_without_command=True)(_provisioner)
    for name in arguments[:1] if arguments and arguments[0] in _COMMANDS else _COMMANDS:
        module = import_module(f"provisioner.cli.{_OTHER_MODULE.get(name, name).replace('-', '_')}")
        command = getattr(module, name.replace("-", "_"))
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _provisioner(
    context: typer.Context,
    show_version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if show_version:
        from provisioner.cli.version import version

        version(Format.TABLE)
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """`provisioner`."""
    line = sys.argv[1:] if arguments is None else arguments
    return run(_program(line), "provisioner", line)


def create_cluster_alone(arguments: Sequence[str] | None = None) -> int:
    """`create-cluster`: the one command under its own name."""
    from provisioner.cli.create_cluster import create_cluster

    app = _app()
    app.command("create-cluster")(create_cluster)
    return run(app, "create-cluster", sys.argv[1:] if arguments is None else arguments)


def run(program: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    """Run a command line; the exit code. Nothing escapes but what ends the interpreter."""
    output = _wanted_format(arguments)
    try:
        result = program(args=list(arguments), prog_name=name, standalone_mode=False)
    except errors.ProvisionerError as error:
        return _failed(error, output)
    except _UsageError as error:
        return _failed(_usage(error, name), output)
    except (KeyboardInterrupt, typer.Abort):
        return _failed(errors.Interrupted("interrupted", remedy="Run the same command again, it continues."), output)
    except typer.Exit as ended:
        return ended.exit_code
    except BrokenPipeError:
        # The reader went away; the interpreter must not complain about it when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 -- the last resort, with the traceback for whoever mends it
        if output is not Format.JSON:
            traceback.print_exc()
        remedy = "This is a fault of provisioner: please report it with what was printed."
        return _failed(errors.ProvisionerError(f"{type(error).__name__}: {error}", remedy=remedy), output)
    return result if isinstance(result, int) else 0


def _failed(error: errors.ProvisionerError, output: Format) -> int:
    emit_error(error, output)
    return error.exit_code


def _usage(error: Exception, name: str) -> errors.ProvisionerError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else name
    parameter = getattr(error, "param", None)
    options = getattr(parameter, "opts", None) or [""]
    message = getattr(error, "format_message", error.__str__)()
    return errors.Usage(message[:1].lower() + message[1:].rstrip("."), remedy=f"See {command} --help.", field=options[-1])


def _wanted_format(arguments: Sequence[str]) -> Format:
    """--output as it stands on the command line: it must be known before the line is understood, for its errors."""
    wanted = ""
    for index, argument in enumerate(arguments):
        if argument in {"--output", "-o"}:
            wanted = arguments[index + 1] if index + 1 < len(arguments) else ""
        elif argument.startswith(("--output=", "-o")):
            wanted = argument.removeprefix("--output=").removeprefix("-o").removeprefix("=")
    return Format(wanted) if wanted in list(Format) else Format.TABLE


if __name__ == "__main__":
    sys.exit(main())
