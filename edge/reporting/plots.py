"""Pictures with matplotlib, of the extra `report`, drawn into files and never on a screen."""

from __future__ import annotations

import io
from typing import Any

from fthnet_kit.edge.errors import MissingExtraError


def load_pyplot(purpose: str) -> Any:
    """matplotlib.pyplot that draws into files only.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", purpose=purpose) from error
    return pyplot


def png_of(figure: Any, plt: Any) -> bytes:
    """A figure as PNG; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    return buffer.getvalue()
