"""Photos that are nearly the same: re-encoded, resized, cropped, or taken of one scene in a row.

Candidates are nearest neighbours, by the network's features and by grey thumbnails. A candidate is confirmed if its
thumbnails correlate far more than those of most neighbours in this data set do, so the threshold fits photos of
supermarkets and drawings of digits alike. docs/data.md has the figures.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

SIDE, PART = 32, 24  # pixels of a thumbnail, and of the part that is looked for in another one
SCALES = (1.0, 0.9)  # of that part: a photo may show 0.9 of another one's width
NEIGHBOURS = 5  # a photo's nearest ones by features that are compared
NEAREST_THUMBNAILS = 2  # and by thumbnails: features of small pictures change if these are encoded again
DEVIATIONS = 3.5  # above the median of all candidates; the usual bound of an outlier
LEAST, ENOUGH = 0.85, 0.985  # bounds of the threshold of the thumbnails' correlation
LIKELY = 0.9  # correlation of whole thumbnails from which pairs with unlike features are compared
UNLIKE = 0.97  # the correlation from which the features need not be alike


class Pairs(NamedTuple):
    "Pairs of photos that are nearly the same, most similar first."

    first: np.ndarray  # int64 [pairs]: the lower index
    second: np.ndarray  # int64 [pairs]
    similarity: np.ndarray  # float32 [pairs], at most 1: of thumbnails, or of features if there are none


def near_duplicates(features: np.ndarray, thumbnails: np.ndarray | None = None) -> Pairs:
    """Return the pairs of photos that are nearly the same.

    features: float [photos, features]. thumbnails: uint8 [photos, SIDE, SIDE], grey, of
    `toolkit.features.extract.features_and_thumbnails`. A pair is reported if its thumbnails correlate, at the best of
    some shifts and scales, by at least `outlying` of all candidates, within LEAST and ENOUGH; and if its features are
    among the more similar half of the candidates, or the correlation is UNLIKE or more. Without thumbnails, a pair is
    reported if the cosine similarity of its centred features is such an outlier; that finds copies, and few crops.
    Memory grows with the number of photos, not with its square.
    """
    if len(features) < 2:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    vectors = _normalized(features - features.mean(0))
    pairs = _neighbours(vectors, NEIGHBOURS)
    if thumbnails is None:
        alike = _cosines(vectors, pairs)
        return _sorted(pairs, alike, alike >= np.clip(outlying(alike), LEAST, ENOUGH))
    looks = _normalized(_coarse(thumbnails))
    pairs = np.unique(np.concatenate([pairs, _neighbours(looks, NEAREST_THUMBNAILS)]), axis=0)
    alike = _cosines(vectors, pairs)
    likely = alike >= np.median(alike)
    compared = likely | (_cosines(looks, pairs) >= LIKELY)
    pairs, likely = pairs[compared], likely[compared]
    same = np.array([correlation(thumbnails[one], thumbnails[other]) for one, other in pairs], np.float32)
    return _sorted(pairs, same, (likely | (same >= UNLIKE)) & (same >= np.clip(outlying(same[likely]), LEAST, ENOUGH)))


def groups(pairs: Pairs, photos: int) -> np.ndarray:
    "Return the group of each photo, int64 [photos], from 0: photos joined by pairs, directly or by others, share one."
    joined = coo_array((np.ones(len(pairs.first)), (pairs.first, pairs.second)), shape=(photos, photos))
    return connected_components(joined, directed=False)[1].astype(np.int64)


def equal_files(photos: list[Path]) -> np.ndarray:
    "The group of each file, int64 [photos] from 0: files are in one group if they are equal byte for byte."
    sizes = [photo.stat().st_size for photo in photos]
    several = {size for size, count in Counter(sizes).items() if count > 1}
    contents = [
        hashlib.sha256(photo.read_bytes()).hexdigest() if size in several else str(photo)
        for photo, size in zip(photos, sizes, strict=True)
    ]
    numbers = {content: number for number, content in enumerate(dict.fromkeys(contents))}
    return np.array([numbers[content] for content in contents])


def outlying(correlations: np.ndarray) -> float:
    """Return the correlation that lies DEVIATIONS above the median, by Fisher's z and the median absolute deviation.

    Source: https://en.wikipedia.org/wiki/Fisher_transformation, https://en.wikipedia.org/wiki/Median_absolute_deviation
    """
    z = np.arctanh(np.clip(correlations, -0.9999, 0.9999))
    median = np.median(z)
    return float(np.tanh(median + DEVIATIONS * 1.4826 * np.median(np.abs(z - median))))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest Pearson correlation of the centre of one thumbnail with a part of the other: -1 to 1.

    one, other: uint8 [SIDE, SIDE]. The centre is PART pixels wide, and may show as much at 0.9 of its scale. -1 if a
    centre is of one colour.
    """
    found = [_found(one, other, scale) for scale in SCALES]
    return max(*found, *(_found(other, one, scale) for scale in SCALES if scale != 1))


def _found(inside: np.ndarray, of: np.ndarray, scale: float) -> float:
    edge, side = (SIDE - PART) // 2, round(PART * scale)
    centre = of[edge : edge + PART, edge : edge + PART]
    if np.ptp(centre) == 0:
        return -1.0
    if side != PART:
        centre = cv2.resize(centre, (side, side), interpolation=cv2.INTER_LINEAR)
    return min(1.0, float(cv2.matchTemplate(inside, centre, cv2.TM_CCOEFF_NORMED).max()))


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    "Return thumbnails of a quarter of the pixels as vectors around zero, float32 [photos, pixels]."
    small = thumbnails.reshape(len(thumbnails), SIDE // 2, 2, SIDE // 2, 2).mean((2, 4), dtype=np.float32)
    vectors = small.reshape(len(small), -1)
    return vectors - vectors.mean(1, keepdims=True)


def _normalized(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def _neighbours(vectors: np.ndarray, count: int) -> np.ndarray:
    "Return each pair of a vector and one of its `count` nearest once, the lower index first: int64 [pairs, 2]."
    count = min(count, len(vectors) - 1)
    found = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(vectors).kneighbors(return_distance=False)
    pairs = np.stack([np.repeat(np.arange(len(vectors)), count), found.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _cosines(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    blocks = [(vectors[part[:, 0]] * vectors[part[:, 1]]).sum(1) for part in _blocks(pairs)]
    return np.concatenate(blocks)


def _blocks(pairs: np.ndarray, size: int = 4096) -> list[np.ndarray]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _sorted(pairs: np.ndarray, similarity: np.ndarray, kept: np.ndarray) -> Pairs:
    pairs, similarity = pairs[kept], similarity[kept].astype(np.float32)
    order = np.argsort(-similarity, kind="stable")
    return Pairs(pairs[order, 0], pairs[order, 1], similarity[order])
