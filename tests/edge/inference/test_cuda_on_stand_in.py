"""The tests for a real CUDA driver pass on the driver that lives in host memory, and so are right at first contact."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cuda_stand_in.rig import process_on_stand_in

TESTS = Path(__file__).with_name("test_cuda.py")


@pytest.mark.slow
def test_what_needs_only_cuda_passes_on_the_stand_in() -> None:
    script = """
    import pytest
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1]]))
    """
    done = process_on_stand_in(script, arguments=[TESTS], timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) passed in", done.stdout)  # and none skipped
    assert counts, done.stdout
    assert int(counts[1]) >= 10
