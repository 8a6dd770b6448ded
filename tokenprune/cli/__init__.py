"""The ``tokenprune`` command: one module a subcommand, each importing what is heavy when it runs."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from typing import Annotated, NoReturn

import typer

from tokenprune._version import __version__
from tokenprune.cli.ablate import ablate
from tokenprune.cli.bench import bench
from tokenprune.cli.check import check
from tokenprune.cli.compare import compare
from tokenprune.cli.conformance import conformance
from tokenprune.cli.doctor import doctor
from tokenprune.cli.explore import explore
from tokenprune.cli.figure import figure
from tokenprune.cli.harness import harness
from tokenprune.cli.judge import judge
from tokenprune.cli.listing import listing
from tokenprune.cli.new import new
from tokenprune.cli.report import report
from tokenprune.cli.scenes import scenes
from tokenprune.cli.serve import serve
from tokenprune.cli.show import show
from tokenprune.cli.table import table
from tokenprune.cli.theory import theory
from tokenprune.cli.tune import tune
from tokenprune.cli.verify import verify
from tokenprune.core.errors import StoppedError, TokenPruneError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its columns cut long names and defaults in 80 columns
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokenprune {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Visual token pruning for multimodal LLMs: compose, compare and run training-free pruners."""


app.command("compare", short_help="Every strategy at every budget: results, a table, a report.")(compare)
app.command("show", short_help="Draw which patches each strategy keeps, and the answers.")(show)
app.command("explore", short_help="One offline page: budgets, heat maps, words, answers.")(explore)
app.command("ablate", short_help="Vary parts of strategies: tables, figures, one report.")(ablate)
app.command("tune", short_help="Search for the best composition of parts.")(tune)
app.command("bench", short_help="Measure time to first token, memory and FLOPs.")(bench)
app.command("list", short_help="List strategies and parts, or tell one in full.")(listing)
app.command("doctor", short_help="Prove that pruning takes place and keeps its laws.")(doctor)
app.command("report", short_help="Tables of results that are there, for documents.")(report)
app.command("new", short_help="Write a repository for a strategy of your own.")(new)
app.command("conformance", short_help="Replay golden vectors of reference implementations.")(conformance)
app.command("theory", short_help="Check every statement of the paper's theory.")(theory)
app.command("table", short_help="Measure a table of the paper; print ours beside theirs.")(table)
app.command("judge", short_help="Grade by another model what no rule grades.")(judge)
app.command("serve", short_help="Serve chat completions over HTTP.")(serve)
app.command("verify", short_help="Check a folder of results against its own answers.")(verify)
app.command("check", short_help="Try a part on small instances.")(check)
app.add_typer(scenes, name="scenes")
app.add_typer(harness, name="harness", short_help="lmms-eval: write tasks for it, import its samples.")
app.add_typer(figure, name="figure", short_help="Figures for papers: vector PDF and PNG.")


def main() -> None:
    """Entry point of the console script: what can go wrong on a machine is a message, not a traceback.

    Exit codes: 2 for what the user can put right, 1 where a command found something wrong, 130 after ctrl-C. A fault
    of ours keeps its traceback, in a file, and tells where.
    """
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # a full disk shows here, and not while Python ends
    except StoppedError as error:
        _tell(f"\n{error}", 130)
    except KeyboardInterrupt:
        _tell("\nstopped", 130)
    except TokenPruneError as error:
        _tell(f"Error: {error}", 2)
    except BrokenPipeError:
        # whoever read the output has gone; Python would complain once more when it closes it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{str(error.filename)!r}: " if error.filename else ""
        way_out = _WAYS_OUT.get(error.errno or 0, "")
        _tell(f"Error: {where}{error.strerror or error}{f'; {way_out}' if way_out else ''}", 2)
    except UnicodeDecodeError as error:
        _tell(f"Error: a file is no text in UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8", 2)
    except Exception as error:
        _tell(_unforeseen(error), 1)


_WAYS_OUT = {
    errno.ENOSPC: "make room there or use another --out; what is written stays, and the same command goes on",
    errno.EDQUOT: "make room there or use another --out; what is written stays, and the same command goes on",
    errno.EFBIG: "the file may not grow further (ulimit -f, or the file system); what is written stays",
    errno.EROFS: "nothing can be written there; use another --out",
    errno.EACCES: "the permissions forbid it; use another folder",
    errno.EMFILE: "too many files are open (ulimit -n)",
}


def _tell(message: str, code: int) -> NoReturn:
    """A message without codes that a terminal would obey, and the end."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    sys.stderr.write(f"{shown}\n")
    sys.exit(code)


def _unforeseen(error: Exception) -> str:
    """Two lines about what nobody foresaw; the traceback goes into a file."""
    story = "".join(traceback.format_exception(error))
    first = (str(error).strip().splitlines() or [""])[0]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="tokenprune-", suffix=".txt", delete=False) as file:
            file.write(story)
    except OSError:
        return story
    return f"Error: {type(error).__name__}: {first}\n  unforeseen; the traceback is in {file.name}"
