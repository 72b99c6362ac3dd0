// A photo -> the square that the model takes. docs/resizing.md has this arithmetic in words; toolkit/data/resizing.py
// has it in Python, by OpenCV. Names are the same there.
import {upright} from "./orientation.js";

// Throws if the browser changes pixels that a page reads, as some do against fingerprinting.
export function checkCanvas() {
  const context = new OffscreenCanvas(16, 16).getContext("2d", {willReadFrequently: true}), wanted = context.createImageData(16, 16);
  for (let at = 0; at < wanted.data.length; at++) wanted.data[at] = at % 4 === 3 ? 255 : (at * 37) % 256;
  context.putImageData(wanted, 0, 0);
  if (context.getImageData(0, 0, 16, 16).data.some((value, at) => value !== wanted.data[at]))
    throw new Error("this browser changes the pixels that a page reads, against fingerprinting; allow this page to read canvases");
}

// The photo of a Blob, upright, over white: {data: RGB bytes, height, width, whole: [height, width]}. A JPEG that is
// much larger than `resize` comes at 1/2, 1/4 or 1/8. Throws a DOMException if the browser can't read it.
export async function decoded(blob, resize) {
  const jpeg = new Uint8Array(await blob.slice(0, 2).arrayBuffer()).join() === "255,216";
  const bitmap = await upright(blob);
  const {width, height} = bitmap;
  const least = Math.ceil(2.75 * resize), shorter = Math.min(width, height);
  const k = jpeg ? [8, 4, 2, 1].find(factor => factor === 1 || shorter >= factor * least) : 1;
  const photo = {...blank(Math.ceil(height / k), Math.ceil(width / k)), whole: [height, width]};
  const rows = 64;  // a phone may refuse a canvas as large as its camera's photos: it is read in strips
  const context = new OffscreenCanvas(width, rows).getContext("2d", {willReadFrequently: true});
  for (let top = 0; top < height; top += rows) {
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const strip = {data: withoutAlpha(context.getImageData(0, 0, width, rows).data), height: Math.min(rows, height - top), width};
    photo.data.set((k === 1 ? cut(strip, 0, strip.height, 0, width) : reduced(strip, k)).data, (top / k) * photo.width * 3);
  }
  bitmap.close();
  return photo;
}

// The square, `crop` rows of `crop` RGB pixels, of a decoded photo.
export function square(photo, preprocess) {
  const {resize, crop, fit} = preprocess, whole = photo.whole;
  if (fit === "squash") return resized(photo, whole, [crop, crop], crop).data;
  if (fit === "pad") {
    const longer = Math.max(...whole), size = whole.map(length => Math.max(roundEven((length / longer) * crop), 1));
    return placed(resized(photo, whole, size, crop), crop, size.map(length => roundEven((crop - length) / 2)), padding(preprocess));
  }
  const shorter = Math.min(...whole), size = whole.map(length => length === shorter ? resize : Math.floor((resize * length) / shorter));
  const offsets = size.map(length => Math.floor(Math.max(crop - length, 0) / 2));
  return placed(resized(photo, whole, size, crop), crop, offsets, [0, 0, 0]);
}

const padding = ({mean}) => mean.map(value => Math.min(Math.max(roundEven(255 * value), 0), 255));

// The centre of the photo resized to `size`: `crop` of its rows and columns, or all if there are fewer.
function resized(photo, whole, size, crop) {
  const axes = size.map((length, axis) => {
    const k = [1, 2, 4, 8].find(factor => Math.ceil(whole[axis] / factor) === [photo.height, photo.width][axis]);
    return source(whole[axis] / k / length, Math.max(roundEven((length - crop) / 2), 0), Math.min(length, crop));
  });
  const [rows, columns] = axes;
  const part = cut(photo, rows.begin, Math.min(rows.begin + rows.count, photo.height), columns.begin, Math.min(columns.begin + columns.count, photo.width));
  const small = scaled(part, rows.scale, columns.scale);
  return cut(small, rows.skip, rows.skip + rows.shown, columns.skip, columns.skip + columns.shown);
}

// The pixels along an axis to resize in order to get `shown` resized pixels from `start` on: OpenCV takes no offset, so
// they begin where a resized pixel begins too, to within 0.03 pixels.
function source(scale, start, shown) {
  let first = Math.max(start - 1, 0);
  while (Math.abs(first * scale - roundEven(first * scale)) > 0.03 * Math.min(scale, 1)) first--;
  const count = Math.ceil((start - first + shown + 1) * scale) + 3;
  return {scale, shown, skip: start - first, begin: roundEven(first * scale), count};
}

// The photo at 1 / down of its height and 1 / across of its width, antialiased.
function scaled(photo, down, across) {
  const cubic = [down, across].every(scale => 1.09 < scale && scale <= 1.65);
  const taps = [down, across].map(scale => tap(scale, cubic)), largest = Math.max(down, across);
  if (largest > 2) {
    const [y, x] = [down, across].map(scale => Math.min(2 / scale, 1));
    photo = y === 0.5 && x === 0.5 ? halved(photo) : filtered(photo, areaTaps(photo.height, y), areaTaps(photo.width, x));
    [down, across] = [Math.min(down, 2), Math.min(across, 2)];
  }
  if (largest > 1) photo = blurred(photo, ...taps);
  if (down === 2 && across === 2) return halved(photo);
  return cubic ? filtered(photo, cubicTaps(photo.height, 1 / down), cubicTaps(photo.width, 1 / across)) : linear(photo, 1 / down, 1 / across);
}

const tap = (scale, cubic) => scale <= 1 ? 0 : scale > 2 ? 1 / 6 : cubic ? (scale - 0.6) / 5 : (scale - 1) / (scale + 2);

// The photo after a blur of three taps along each axis, [side, 1 - 2 * side, side], in the order and the precision in
// which OpenCV adds: a sixth gives many halves, which are rounded up or down by the last bit.
function blurred(photo, down, across) {
  const {height, width} = photo, f = Math.fround, row = width * 3, result = blank(height, width), wide = new Float32Array(height * row);
  const [side, middle] = [f(across), f(1 - 2 * across)], [above, here] = [f(down), f(1 - 2 * down)];
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < row; x++, at++) {
      const left = photo.data[x < 3 ? at : at - 3], right = photo.data[x >= row - 3 ? at : at + 3];
      wide[at] = side * right + f(middle * photo.data[at] + f(side * left));
    }
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < row; x++, at++) {
      const others = f(wide[y === 0 ? at : at - row] + wide[y === height - 1 ? at : at + row]);
      result.data[at] = roundEven(f(above * others + f(here * wide[at])));
    }
  return result;
}

// Filters: for each pixel of an axis after it, `count` pixels before it and their weights.

function taps(length, count, ofPixel) {
  const index = new Int32Array(length * count), weight = new Float32Array(length * count);
  for (let i = 0; i < length; i++) ofPixel(i, (tap, pixel, share) => { index[i * count + tap] = pixel; weight[i * count + tap] = share; });
  return {length, count, index, weight};
}

function areaTaps(length, share) {
  const scale = 1 / share;
  return taps(roundEven(length * share), Math.ceil(scale) + 2, (i, set) => {
    const from = i * scale, to = from + scale, cell = Math.min(scale, length - from);
    const end = Math.min(Math.floor(to), length - 1), begin = Math.min(Math.ceil(from), end);
    let tap = 0;
    if (begin - from > 1e-3) set(tap++, begin - 1, (begin - from) / cell);
    for (let pixel = begin; pixel < end; pixel++) set(tap++, pixel, 1 / cell);
    if (to - end > 1e-3) set(tap++, end, Math.min(to - end, 1, cell) / cell);
  });
}

function cubicTaps(length, share) {
  const scale = 1 / share, f = Math.fround, A = -0.75;
  return taps(roundEven(length * share), 4, (i, set) => {
    const at = f((i + 0.5) * scale - 0.5), pixel = Math.floor(at), x = f(at - pixel);
    const near = t => f(f(f(f(A + 2) * t) - f(A + 3)) * f(t * t) + 1), far = t => f(((A * t - 5 * A) * t + 8 * A) * t - 4 * A);
    const weights = [far(f(x + 1)), near(x), near(f(1 - x))];
    weights.push(f(f(f(1 - weights[0]) - weights[1]) - weights[2]));
    weights.forEach((weight, tap) => set(tap, Math.min(Math.max(pixel + tap - 1, 0), length - 1), weight));
  });
}

// The photo after one filter along its rows, then another along its columns, rounded half to even.
function filtered(photo, rows, columns) {
  const across = new Float32Array(photo.height * columns.length * 3), result = blank(rows.length, columns.length);
  for (let y = 0, at = 0; y < photo.height; y++)
    for (let x = 0; x < columns.length; x++)
      for (let c = 0; c < 3; c++, at++) {
        let sum = 0;
        for (let tap = x * columns.count; tap < (x + 1) * columns.count; tap++)
          sum += columns.weight[tap] * photo.data[(y * photo.width + columns.index[tap]) * 3 + c];
        across[at] = sum;
      }
  const width = columns.length * 3;
  for (let y = 0, at = 0; y < rows.length; y++)
    for (let x = 0; x < width; x++, at++) {
      let sum = 0;
      for (let tap = y * rows.count; tap < (y + 1) * rows.count; tap++) sum += rows.weight[tap] * across[rows.index[tap] * width + x];
      result.data[at] = Math.min(Math.max(roundEven(Math.fround(sum)), 0), 255);
    }
  return result;
}

// OpenCV's INTER_LINEAR: weights are 11 bits.
function linear(photo, down, across) {
  const axis = (length, share) => {
    const scale = 1 / share, at = [];
    for (let i = 0; i < roundEven(length * share); i++) {
      const position = Math.fround((i + 0.5) * scale - 0.5), pixel = Math.floor(position), x = Math.fround(position - pixel);
      at.push([pixel, roundEven(2048 * Math.fround(1 - x)), roundEven(2048 * x)]);
    }
    return at;
  };
  const rows = axis(photo.height, down), columns = axis(photo.width, across);
  const result = blank(rows.length, columns.length), width = columns.length * 3, wide = new Int32Array(photo.height * width);
  for (let y = 0, at = 0; y < photo.height; y++)
    for (const [pixel, first, second] of columns) {
      const outside = pixel < 0 || pixel >= photo.width - 1, left = Math.min(Math.max(pixel, 0), photo.width - 1);
      const one = (y * photo.width + left) * 3;
      for (let c = 0; c < 3; c++, at++) wide[at] = outside ? 2048 * photo.data[one + c] : first * photo.data[one + c] + second * photo.data[one + 3 + c];
    }
  rows.forEach(([pixel, first, second], y) => {
    const [one, two] = [pixel, pixel + 1].map(row => Math.min(Math.max(row, 0), photo.height - 1) * width);
    for (let x = 0; x < width; x++)
      result.data[y * width + x] = (((first * (wide[one + x] >> 4)) >> 16) + ((second * (wide[two + x] >> 4)) >> 16) + 2) >> 2;
  });
  return result;
}

// Means of 2 x 2 pixels, halves rounded up.
function halved(photo) {
  const result = blank(roundEven(photo.height / 2), roundEven(photo.width / 2)), row = photo.width * 3;
  for (let y = 0, at = 0; y < result.height; y++)
    for (let x = 0; x < result.width; x++)
      for (let c = 0; c < 3; c++, at++) {
        const [top, bottom] = [2 * y, Math.min(2 * y + 1, photo.height - 1)].map(r => r * row);
        const [left, right] = [2 * x, Math.min(2 * x + 1, photo.width - 1)].map(p => p * 3 + c);
        result.data[at] = (photo.data[top + left] + photo.data[top + right] + photo.data[bottom + left] + photo.data[bottom + right] + 2) >> 2;
      }
  return result;
}

// A strip at 1 / k, as libjpeg reduces a JPEG: of each 8 x 8 pixels the lowest 8 / k frequencies of the cosine transform.
function reduced(strip, k) {
  const kept = 8 / k, basis = [];
  for (let i = 0; i < kept; i++)
    for (let j = 0; j < 8; j++) {
      let sum = 1 / 8;
      for (let f = 1; f < kept; f++)
        sum += (Math.cos(((2 * i + 1) * f * Math.PI) / (2 * kept)) * Math.cos(((2 * j + 1) * f * Math.PI) / 16)) / 4;
      basis.push(sum);
    }
  const axis = length => taps(Math.ceil(length / k), 8, (i, set) => {
    const block = Math.floor(i / kept) * 8;
    for (let j = 0; j < 8; j++) set(j, Math.min(block + j, length - 1), basis[(i % kept) * 8 + j]);
  });
  return filtered(strip, axis(strip.height), axis(strip.width));
}

const blank = (height, width) => ({data: new Uint8Array(height * width * 3), height, width});

function cut(photo, top, bottom, left, right) {
  const part = blank(bottom - top, right - left);
  for (let y = 0; y < part.height; y++) {
    const from = ((top + y) * photo.width + left) * 3;
    part.data.set(photo.data.subarray(from, from + part.width * 3), y * part.width * 3);
  }
  return part;
}

// A square of `side` pixels of a colour with the photo at [top, left].
function placed(photo, side, [top, left], colour) {
  const target = blank(side, side);
  for (let at = 0; at < target.data.length; at++) target.data[at] = colour[at % 3];
  for (let y = 0; y < photo.height; y++)
    target.data.set(photo.data.subarray(y * photo.width * 3, (y + 1) * photo.width * 3), ((top + y) * side + left) * 3);
  return target.data;
}

function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return rgb;
}

function roundEven(value) {
  const below = Math.floor(value), rest = value - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}
