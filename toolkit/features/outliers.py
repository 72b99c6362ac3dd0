"""Photos unlike all others of a data set."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 5
DEVIATIONS = 4.0  # above the median


def odd_ones(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the photos that are far from all others, int64 [odd], the farthest first, and their distances in
    deviations above the median, float32 [odd].

    features: float [photos, features]. A photo's distance is the mean euclidean distance from its NEIGHBOURS nearest
    photos. Odd is a distance that lies DEVIATIONS above the median of all, by the median absolute deviation. In a
    varied data set few photos stand out so far.
    Source: https://doi.org/10.1145/342009.335437 (outliers by the distance to the nearest neighbours)
    """
    count = min(NEIGHBOURS, len(features) - 1)
    if count < 1:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    distances, _ = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(features).kneighbors()
    distance = distances.mean(1)
    median = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - median))
    score = ((distance - median) / max(spread, 1e-6)).astype(np.float32)
    found = np.flatnonzero(score >= DEVIATIONS)
    found = found[np.argsort(-score[found], kind="stable")]
    return found.astype(np.int64), score[found]
