"""What a picture still shows of a photograph of the same place, by two published measures over the retinal field.

`vif`: the information about the photograph that the picture carries (H. R. Sheikh, A. C. Bovik: Image information and
visual quality, IEEE Transactions on Image Processing 15(2), 2006; in the pixel domain, with the constants of the
authors' release). Blur and noise cost it, a change of gain alone hardly does. `ms_ssim`: how alike both look
(Z. Wang, E. P. Simoncelli, A. C. Bovik: Multiscale structural similarity for image quality assessment, Asilomar 2003,
with its window, constants and weights); a change of brightness costs it much, a little blur hardly anything.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # MS-SSIM's scales, finest first
WINDOW, SIGMA = 11, 1.5  # pixels, of SSIM
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
VIF_WINDOWS = (17, 9, 5, 3)  # pixels, of VIF's scales; sigma is a fifth of each
VIF_NOISE = 2.0  # gray levels squared: of the eye that looks
NOTHING = 1e-10  # gray levels squared


def ms_ssim(reference: Plane, picture: Plane, field: Plane) -> float:
    """Multi-scale structural similarity, at most 1 (the same picture); 0 where the structures oppose each other.

    Args:
        reference: gray levels of the undegraded photograph (H, W), each side at least 176 pixels.
        picture: the same size, of the same place, to a fraction of a pixel.
        field: 1 where `reference` shows retina, otherwise 0; only there both are compared.
    """
    similarity = 1.0
    for scale, exponent in enumerate(WEIGHTS):
        luminance, structure = ssim_maps(reference, picture)
        whole = structure if scale < len(WEIGHTS) - 1 else luminance * structure
        mean = float((whole * field).sum() / max(float(field.sum()), 1.0))
        similarity *= max(mean, 0.0) ** exponent
        reference, picture, field = (_half(plane) for plane in (reference, picture, field))
    return similarity


def ssim_maps(first: Plane, second: Plane) -> tuple[Plane, Plane]:
    """The luminance term and the term of contrast and structure of SSIM around every pixel, gray levels 0 to 255."""
    mean1, mean2, variance1, variance2, covariance = _moments(first, second, WINDOW, SIGMA)
    luminance = (2 * mean1 * mean2 + C1) / (mean1 * mean1 + mean2 * mean2 + C1)
    structure = (2 * covariance + C2) / (variance1 + variance2 + C2)
    return luminance.astype(np.float32), structure.astype(np.float32)


def vif(reference: Plane, picture: Plane, field: Plane) -> float:
    """Visual information fidelity: 1 for the same picture, 0 where nothing is left, above 1 with contrast gained.

    Args:
        reference, picture, field: as `ms_ssim` takes them.
    """
    kept = there = 0.0
    for scale, window in enumerate(VIF_WINDOWS):
        sigma = window / 5
        if scale:
            reference, picture = (_blurred(plane, window, sigma)[::2, ::2] for plane in (reference, picture))
            field = np.ascontiguousarray(field[::2, ::2])
        _, _, variance1, variance2, covariance = _moments(reference, picture, window, sigma)
        variance1, variance2 = np.maximum(variance1, 0), np.maximum(variance2, 0)
        gain = np.maximum(covariance / (variance1 + NOTHING), 0)
        noise = np.maximum(variance2 - gain * covariance, NOTHING)
        kept += float((np.log2(1 + gain * gain * variance1 / (noise + VIF_NOISE)) * field).sum())
        there += float((np.log2(1 + variance1 / VIF_NOISE) * field).sum())
    return kept / there if there else 0.0


def _moments(first: Plane, second: Plane, window: int, sigma: float) -> tuple[Plane, Plane, Plane, Plane, Plane]:
    """Means, variances and covariance around every pixel."""
    mean1, mean2 = _blurred(first, window, sigma), _blurred(second, window, sigma)
    variance1 = _blurred(first * first, window, sigma) - mean1 * mean1
    variance2 = _blurred(second * second, window, sigma) - mean2 * mean2
    return mean1, mean2, variance1, variance2, _blurred(first * second, window, sigma) - mean1 * mean2


def _blurred(plane: Plane, window: int, sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane, (window, window), sigma), np.float32)


def _half(plane: Plane) -> Plane:
    size = (plane.shape[1] // 2, plane.shape[0] // 2)
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.float32)
