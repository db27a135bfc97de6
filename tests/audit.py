"""What pip-audit found, in lines: `python -m tests.audit audit.json`; exit code 1 where a newer version would help.

Where no service of weaknesses answers, pip-audit names every library as skipped and ends well. That is no audit: the
file is removed, and one line says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(path: Path) -> int:
    """Print the findings; the exit code."""
    try:
        rows = json.loads(path.read_text())["dependencies"]
    except (OSError, ValueError, KeyError, TypeError):
        rows = []
    audited = [row for row in rows if "vulns" in row]
    if not audited:
        path.unlink(missing_ok=True)
        print("pip-audit: skipped, no service of weaknesses answers here")
        return 0
    found = [(row, each) for row in audited for each in row["vulns"]]
    for row, each in found:
        fixes = ", ".join(each["fix_versions"]) or "no version yet"
        print(f"pip-audit: {each['id']} in {row['name']} {row['version']}, fixed in {fixes}")
    print(f"pip-audit: {len(audited)} of {len(rows)} libraries audited, {len(found)} weaknesses")
    return int(any(each["fix_versions"] for _, each in found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
