"""What both command lines have alike: `-h`, `--version`, shell completion, and help in groups, as plain text."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

F = TypeVar("F", bound=Callable[..., None])

PLAIN: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,  # boxes would cut an example in two
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
"""What every app is made with."""
INTERRUPTED = "stopped by Ctrl-C; no file is left half-written, and the same command can be run again"
INTERRUPTED_CODE = 130


def command_line(help_text: str) -> typer.Typer:
    """An app without commands; give each `cls=Command`, and the title of its group as `rich_help_panel`."""
    app = typer.Typer(cls=Group, help=help_text, no_args_is_help=True, **PLAIN)

    @app.callback()
    def options(
        _: Annotated[
            bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None: ...

    return app


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pairsieve {version('pairsieve')}")
        raise typer.Exit


def in_groups(groups: dict[str, str]) -> Callable[[F], F]:
    """Decorates a command: the title of a group of options -> the names of its parameters, with blanks."""

    def decorated(function: F) -> F:
        vars(function)["option_groups"] = {name: title for title, names in groups.items() for name in names.split()}
        return function

    return decorated


class Command(TyperCommand):
    """A command whose options stand in groups; those that `in_groups` does not name come first."""

    def invoke(self, ctx: Any) -> Any:
        """Ctrl-C ends it with one sentence, where nothing below has a better one."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            typer.echo(f"{ctx.find_root().info_name}: {INTERRUPTED}", err=True)
            raise typer.Exit(INTERRUPTED_CODE) from stop

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The arguments, then the options by group, each in the order of the function's parameters."""
        of: dict[str, str] = getattr(self.callback, "option_groups", {})
        titles = ["Arguments", "Options", *dict.fromkeys(of.values())]
        rows = [
            (of.get(param.name or "", f"{param.param_type_name.capitalize()}s"), record)
            for param in self.get_params(ctx)
            if (record := param.get_help_record(ctx)) is not None
        ]
        _write_groups(formatter, sorted(rows, key=lambda row: titles.index(row[0])))


class Group(TyperGroup):
    """Commands in groups by their `rich_help_panel`, then the options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Each command with a whole sentence."""
        _write_groups(
            formatter,
            [
                (getattr(one, "rich_help_panel", None) or "Commands", (name, one.get_short_help_str(formatter.width)))
                for name, one in self.commands.items()
            ],
        )
        Command.format_options(self, ctx, formatter)  # type: ignore[arg-type]


def _write_groups(formatter: Any, rows: list[tuple[str, tuple[str, str]]]) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for title, row in rows:
        groups.setdefault(title, []).append(row)
    for title, of in groups.items():
        with formatter.section(title):
            formatter.write_dl(of)
