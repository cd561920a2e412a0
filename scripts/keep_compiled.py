"""Keeps what compile_for_cluster.py found: its --output files as rows of a results.json, one a file.

python scripts/keep_compiled.py --output=docs/results/compile_ahead STEP.json [STEP.json ...]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from wukong_jax.cli.command_line import run_script
from wukong_jax.errors import UserError


def main() -> None:
    """Reads, flattens, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="docs/results/NAME")
    parser.add_argument("steps", nargs="+", metavar="STEP.json", help="files that compile_for_cluster.py wrote")
    arguments = parser.parse_args()
    from wukong_jax.clusters.compile_report import flatten_findings
    from wukong_jax.reports.kept_results import write_results

    rows = [flatten_findings(_read_findings(Path(step))) for step in arguments.steps]
    print(f"wrote {write_results(Path(arguments.output), 'python ' + ' '.join(sys.argv), rows)}")


def _read_findings(path: Path) -> dict[str, Any]:
    try:
        findings = json.loads(path.read_text())
    except ValueError:
        findings = None
    if not isinstance(findings, dict) or not {"target", "config", "memory", "traffic"} <= set(findings):
        raise UserError(f"{path}: not what scripts/compile_for_cluster.py writes with --output; give such a file")
    return findings


if __name__ == "__main__":
    run_script(main)
