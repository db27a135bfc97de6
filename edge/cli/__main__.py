"""``python -m fthnet_kit.edge.cli`` is `fthnet`."""

from fthnet_kit.edge.cli.main import main

main()
