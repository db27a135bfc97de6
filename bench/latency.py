"""``python bench/latency.py`` is the same as ``fthnet bench latency``."""

import sys

from fthnet_kit.edge.cli.main import main

if __name__ == "__main__":
    main(["bench", "latency", *sys.argv[1:]])
