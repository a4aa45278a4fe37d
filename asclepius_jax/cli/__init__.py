"""The command line."""

from asclepius_jax.cli.command_line import dispatch, main
from asclepius_jax.cli.commands import AUDIT, COMMANDS, PARTS, Command

__all__ = ["AUDIT", "COMMANDS", "PARTS", "Command", "dispatch", "main"]
