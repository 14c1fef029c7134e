"""The command line, `titanlab VERB`; verbs live one a file in titanlab.commands and import what they need if called."""

import sys

import typer

from titanlab.commands import (
    bench,
    check,
    export,
    list_registered,
    new,
    sweep_plan,
    sweep_report,
    sweep_retry,
    sweep_run,
    sweep_schema,
    sweep_status,
    sweep_stop,
    train,
    ui,
)

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="titanlab",
    help="The research platform for memories that learn at test time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
sweep = typer.Typer(help="Plan, run and report an ablation sweep written in YAML.", no_args_is_help=True)
app.command("train", short_help="Train one configuration, or go on where it was interrupted.")(train.train)
app.add_typer(sweep, name="sweep")
sweep.command("plan", short_help="List every trial with its parameters and memory state; run nothing.")(sweep_plan.plan)
sweep.command("run", short_help="Run what is not complete yet.")(sweep_run.run)
sweep.command("report", short_help="Compare the cells: a table, Markdown, CSV and a picture.")(sweep_report.report)
sweep.command("status", short_help="Show how far each trial is.")(sweep_status.status)
sweep.command("stop", short_help="End a running sweep, with checkpoints.")(sweep_stop.stop)
sweep.command("retry", short_help="Run again what failed, diverged or was stopped.")(sweep_retry.retry)
sweep.command("schema", short_help="Print the JSON schema of a sweep file, for editors.")(sweep_schema.schema)
app.command("export", short_help="Write a trained trial as an MLflow model that loads and predicts.")(export.export)
app.command("check", short_help="Check that a memory or an architecture keeps its promises.")(check.check)
app.command("new", short_help="Begin a memory, an architecture or a task of your own: a plug-in that works.")(new.new)
app.command("list", short_help="Show what a configuration can name, and its settings.")(list_registered.list_registered)
app.add_typer(bench.bench, name="bench")
app.command("ui", short_help="Serve MLflow and print the link that shows a sweep's trials.")(ui.ui)


def version(show: bool) -> None:
    """Prints the version and leaves."""
    if show:
        from titanlab import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    show_version: bool = typer.Option(False, "--version", callback=version, is_eager=True, help="Print the version."),
) -> None:
    """The research platform for memories that learn at test time."""


def main() -> None:
    """Runs a verb. Exit codes: 0 done, 1 some trials failed, 2 bad input, 130 interrupted."""
    # The full module name, also under `python -m titanlab`: what lives in __main__ is pickled by value.
    from titanlab.platform.errors import DiskFullError, NonFiniteLossError, TitanlabError
    from titanlab.platform.printable import visible
    from titanlab.platform.redaction import redacted

    try:
        app()
    except (NonFiniteLossError, DiskFullError) as error:
        typer.echo(visible(redacted(f"failed: {error}")), err=True)
        sys.exit(FAILED)
    except TitanlabError as error:
        typer.echo(visible(redacted(f"error: {error}")), err=True)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
