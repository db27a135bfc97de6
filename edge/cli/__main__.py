"""``python -m fthnet_kit.edge.cli`` is `fthnet`."""

from fthnet_kit.edge.cli.main import main

if __name__ == "__main__":  # worker processes import this module, too
    main()
