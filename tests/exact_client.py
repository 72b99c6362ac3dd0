"""Photos prepared with OpenCV alone, by docs/resizing.md and nothing else."""

import math

import cv2
import numpy as np


def prepare_by_the_page(file: str, resize: int, crop: int) -> np.ndarray:
    "uint8 [crop, crop, 3] RGB of a photo that EXIF doesn't mirror."
    photo = cv2.imread(file, cv2.IMREAD_COLOR_RGB)
    height, width = photo.shape[:2]
    short, k = min(height, width), 1
    if file.endswith(".jpg"):
        k = next((k for k in (8, 4, 2) if short >= k * math.ceil(2.75 * resize)), 1)
    if k > 1:
        photo = cv2.imread(file, getattr(cv2, f"IMREAD_REDUCED_COLOR_{k}"))[..., ::-1]
    resized = [int(resize * length / short) for length in (height, width)]
    s = [length / k / new for length, new in zip((height, width), resized, strict=True)]
    slices, skips, shown = [], [], []
    for axis in range(2):
        start = max(round((resized[axis] - crop) / 2), 0)
        shown.append(min(crop, resized[axis]))
        i = max(start - 1, 0)
        while abs(i * s[axis] - round(i * s[axis])) > 0.03 * min(s[axis], 1):
            i -= 1
        begin = round(i * s[axis])
        slices.append(slice(begin, begin + math.ceil(s[axis] * (start + shown[axis] + 1 - i)) + 3))
        skips.append(start - i)
    photo, largest = photo[slices[0], slices[1]], max(s)
    cubic = all(1.09 < x <= 1.65 for x in s)
    a = [0 if x <= 1 else 1 / 6 if x > 2 else (x - 0.6) / 5 if cubic else (x - 1) / (x + 2) for x in s]
    if largest > 2:
        photo = cv2.resize(photo, None, fx=min(2 / s[1], 1), fy=min(2 / s[0], 1), interpolation=cv2.INTER_AREA)
        s = [min(x, 2) for x in s]
    if largest > 1:
        y, x = (np.array([k, 1 - 2 * k, k], np.float32) for k in a)
        photo = cv2.sepFilter2D(photo, -1, x, y, borderType=cv2.BORDER_REPLICATE)
    flag = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    photo = cv2.resize(photo, None, fx=1 / s[1], fy=1 / s[0], interpolation=flag)
    return photo[skips[0] : skips[0] + shown[0], skips[1] : skips[1] + shown[1]]
