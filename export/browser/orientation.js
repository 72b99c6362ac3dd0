// A photo as a bitmap, upright. Browsers turn a JPEG, PNG or AVIF by its EXIF, as Python does. Chromium does not turn a
// WebP. So that no browser does, its orientation is set to 1 in a copy of the file, and the bitmap is turned here.

const TRANSFORMS = {  // of a photo of this width and height: the arguments of a canvas's setTransform
  2: (width, height) => [-1, 0, 0, 1, width, 0],
  3: (width, height) => [-1, 0, 0, -1, width, height],
  4: (width, height) => [1, 0, 0, -1, 0, height],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (width, height) => [0, 1, -1, 0, height, 0],
  7: (width, height) => [0, -1, -1, 0, height, width],
  8: (width, height) => [0, -1, 1, 0, 0, width],
};

// The upright bitmap of a Blob. Throws a DOMException if the browser can't read it.
export async function upright(blob) {
  const begin = await blob.slice(0, 12).text(), webp = begin.startsWith("RIFF") && begin.endsWith("WEBP");
  const bytes = webp ? await blob.arrayBuffer() : null, found = webp ? orientation(bytes) : null;
  if (!(found?.value in TRANSFORMS)) return bitmapOf(blob);
  new DataView(bytes).setUint16(found.at, 1, found.little);
  return turned(await bitmapOf(new Blob([bytes], {type: "image/webp"})), found.value);
}

const bitmapOf = blob => createImageBitmap(blob, {colorSpaceConversion: "none"});

function turned(bitmap, value) {
  const {width, height} = bitmap, [across, down] = value < 5 ? [width, height] : [height, width];
  const canvas = new OffscreenCanvas(across, down), context = canvas.getContext("2d", {willReadFrequently: true});
  context.imageSmoothingEnabled = false;
  context.setTransform(...TRANSFORMS[value](width, height));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.transferToImageBitmap();
}

// The orientation in the bytes of a WebP: {value, at: its place, little: its byte order}; null if it has none.
function orientation(bytes) {
  const view = new DataView(bytes);
  try {
    for (let at = 12; at + 8 <= bytes.byteLength; ) {
      const length = view.getUint32(at + 4, true);
      if (word(bytes, at) === "EXIF") return inDirectory(view, at + 8 + (word(bytes, at + 8) === "Exif" ? 6 : 0));
      at += 8 + length + (length % 2);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;  // one that is damaged says nothing, as in Python
  }
  return null;
}

const word = (bytes, at) => String.fromCharCode(...new Uint8Array(bytes, at, 4));

// The same in the first directory of a TIFF file that begins at `begin`.
function inDirectory(view, begin) {
  const little = view.getUint16(begin) === 0x4949, directory = begin + view.getUint32(begin + 4, little);
  for (let entry = 0; entry < view.getUint16(directory, little); entry++) {
    const at = directory + 2 + 12 * entry;
    if (view.getUint16(at, little) === 0x0112) return {value: view.getUint16(at + 8, little), at: at + 8, little};
  }
  return null;
}
