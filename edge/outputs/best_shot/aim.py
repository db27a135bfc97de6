"""The exposure that best shots aim at."""

from __future__ import annotations

import math

MIDDLE_GRAY_STOPS = math.log2(0.18)  # below white: the field's median luminance when it is exposed as it should be
