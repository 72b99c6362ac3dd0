// The model in the browser: onnxruntime-web in a thread of its own, by WebGPU if there is one, else by WebAssembly.
import {checkCanvas, decoded, square} from "./prepare.js";

let facts, ort, session;  // session: one that passed the test

onmessage = async ({data}) => {
  if (data.facts) {
    facts = data.facts;
    await load(data.device).then(ready => postMessage({ready}), error => postMessage({failed: `The model can't be used: ${error.message}`}));
  } else {
    await answer(data.photo).then(found => postMessage({answer: found}), error => postMessage({error: error.message}));
  }
};

async function load(wanted) {
  checkCanvas();
  const model = await downloaded("model.onnx");
  const gpu = wanted === "wasm" ? null : await navigator.gpu?.requestAdapter();
  if (wanted === "webgpu" && !gpu) throw new Error("this browser has no WebGPU here");
  const fits = facts.precision === "fp32" || (facts.precision === "fp16" && gpu?.features.has("shader-f16"));
  let note = "";
  if (gpu && (fits || wanted === "webgpu"))
    try {
      return sentence("WebGPU", await opened(model, "webgpu"));
    } catch (error) {
      if (wanted === "webgpu") throw error;
      note = ` WebGPU failed (${error.message.split("\n")[0]}).`;
    }
  const difference = await opened(model, "wasm"), threads = ort.env.wasm.numThreads;
  return sentence(`WebAssembly in ${threads} thread${threads > 1 ? "s" : ""}`, difference) + note;
}

const sentence = (device, difference) =>
  `Computed by ${device}. A test pattern gave the probabilities of Python within ${difference.toExponential(0)}.`;

async function downloaded(url) {
  const reply = await fetch(url, {cache: "no-cache"});  // else a model that was replaced may come from the cache
  if (!reply.ok) throw new Error(`${url}: ${reply.status} ${reply.statusText}`);
  const parts = [], reader = reply.body.getReader();
  let size = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    size += part.value.length;
    postMessage({loading: `Loading the model: ${(size / 1e6).toFixed(0)} of ${(facts.bytes / 1e6).toFixed(0)} MB`});
  }
  if (size !== facts.bytes) throw new Error(`${url} has ${size} bytes, not ${facts.bytes}: it was cut short or replaced`);
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// Opens the model and runs the test pattern. Returns the largest difference of a probability from Python's; throws if it
// is over the bound of the file's precision.
async function opened(model, device) {
  postMessage({loading: "Starting the model …"});
  const [script, files] = device === "webgpu" ? ["ort.webgpu.min.js", "ort-wasm-simd-threaded.asyncify"] : ["ort.wasm.min.js", "ort-wasm-simd-threaded"];
  const at = name => new URL(`onnxruntime/${name}`, import.meta.url).href;
  ort = await import(at(script));
  ort.env.wasm.wasmPaths = {mjs: at(`${files}.js`), wasm: at(`${files}.wasm`)};
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  ort.env.logLevel = "error";
  const opening = await ort.InferenceSession.create(model, {executionProviders: [device], logSeverityLevel: 3});
  const side = facts.preprocess.crop, pattern = new Uint8Array(side * side * 3);
  for (let y = 0, at = 0; y < side; y++) for (let x = 0; x < side; x++) for (let c = 0; c < 3; c++) pattern[at++] = (x * y + 40 * c) % 256;
  const found = (await computed(opening, pattern)).shares;
  const difference = Math.max(...facts.check.probabilities.map((share, i) => Math.abs(share - found[i])));
  const bound = facts.check.bounds[device];
  if (!(difference <= bound))
    throw new Error(`a test pattern gives a probability that is ${difference.toExponential(1)} from Python's, more than ${bound}`);
  session = opening;
  return difference;
}

async function computed(model, pixels) {
  const side = facts.preprocess.crop, outputs = await model.run({image: new ort.Tensor("uint8", pixels, [1, side, side, 3])});
  const figures = {logits: outputs.logits.data, shares: outputs.probabilities.data};
  if (![...figures.logits, ...figures.shares].every(Number.isFinite)) throw new Error("the model gives no numbers for this photo");
  return figures;
}

async function answer(photo) {
  const started = performance.now();
  let read;
  try {
    read = await decoded(photo, facts.preprocess.resize);
  } catch (error) {
    throw error instanceof DOMException ? new Error("This browser can't read it as a photo.") : error;
  }
  const pixels = square(read, facts.preprocess), {logits, shares} = await computed(session, pixels);
  const label = facts.classes[logits.indexOf(Math.max(...logits))], confidence = Math.max(...shares);
  return {
    label, confidence, square: pixels,
    unsure: facts.threshold === null ? null : confidence < Math.fround(facts.threshold),
    probabilities: facts.classes.map((name, i) => [name, shares[i]]).sort((one, other) => other[1] - one[1]),
    milliseconds: performance.now() - started,
  };
}
