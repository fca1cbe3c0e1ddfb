"""`lorabel keys` with its subcommands. Imports nothing that takes long (`lorabel/commands/cli.py`)."""

import typer

keys = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@keys.command()
def new() -> None:
    """Print a new key for LORABEL_SECRET_KEY."""
    from lorabel.secret_keys import new_key

    typer.echo(new_key())


@keys.command()
def rotate() -> None:
    """Encrypt all stored tokens with a new key, or with the first one of LORABEL_SECRET_KEY."""
    from lorabel.commands import keys as rotating

    rotating.rotate()
