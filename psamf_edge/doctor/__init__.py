"""What this machine has, what of it psamf-edge can use, and the one line that mends each thing that is missing."""

from __future__ import annotations

from pathlib import Path

from psamf_edge.doctor.decoder import decoder_finding
from psamf_edge.doctor.finding import Finding
from psamf_edge.doctor.machine import machine_findings
from psamf_edge.doctor.model import bundle_findings, cache_finding
from psamf_edge.doctor.packages import package_findings


def examine(bundle: Path | None = None) -> list[Finding]:
    """Everything, in the order of a report: machine, packages, then the bundle (the default one where None)."""
    return [*machine_findings(), decoder_finding(), *package_findings(), *bundle_findings(bundle), cache_finding()]
