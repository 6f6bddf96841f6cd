"""`psamf-edge doctor`: what this machine has, and the line that mends each thing it lacks."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import click

from psamf_edge import __version__
from psamf_edge.bundle import open_bundle
from psamf_edge.cli.streams import write_stdout
from psamf_edge.doctor import examine
from psamf_edge.doctor.finding import BROKEN, Finding
from psamf_edge.errors import IntegrityError, MissingDependencyError
from psamf_edge.report.escape import encodable, printable

SCHEMA = "psamf-edge-doctor/1"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--bundle", type=click.Path(path_type=Path), help="The bundle to check.  [default: the one that ships]")
def doctor(as_json: bool, bundle: Path | None) -> int:
    """Look at everything that psamf-edge can use on this machine.

    Exit code 0: the CPU path works. What is missing serves something optional, and its line says what. 3: a package
    that everything needs is broken, or the decoder does not start. 4: the bundle is damaged.
    """
    if bundle is not None:
        with contextlib.suppress(IntegrityError, OSError):  # which are findings; one that is not there is wrong use
            open_bundle(bundle)
    findings = examine(bundle)
    write_stdout(as_text(findings) if not as_json else as_document(findings))
    broken = {finding.group for finding in findings if finding.state == BROKEN}
    if broken - {"bundle"}:
        return MissingDependencyError.exit_code
    return IntegrityError.exit_code if broken else 0


def as_document(findings: list[Finding]) -> str:
    """JSON with a schema version."""
    said = [
        {name: value and encodable(value) for name, value in asdict(finding).items()}  # a path may not be UTF-8
        for finding in findings
    ]
    document = {"schema": SCHEMA, "psamf_edge": __version__, "findings": said}
    return json.dumps(document, indent=2) + "\n"


def as_text(findings: list[Finding]) -> str:
    """A line for each finding, under the heading of its group, and what would mend it below."""
    lines = [f"psamf-edge {__version__}"]
    wide = max(len(finding.name) for finding in findings)
    group = None
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines += ["", group]
        serves = f" (for {finding.serves})" if finding.serves and finding.state != "ok" else ""
        lines.append(f"  {finding.state:<8}{finding.name:<{wide}}  {printable(finding.detail)}{serves}")
        if finding.mend:
            lines.append(f"  {'':<8}{'':<{wide}}  -> {printable(finding.mend)}")
    return "\n".join(lines) + "\n"
