// The page to try a model: photos in, answers out. engines.js computes them, here or at the service.
import {engineOf} from "./engines.js";

const FEW = 5;  // classes that are shown until all are asked for
const byId = id => document.getElementById(id);
const facts = JSON.parse(byId("facts").textContent);
const engine = engineOf(facts, say);
const waiting = [];

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").className = wrong ? "status wrong" : "status soft";
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const percent = share => `${(100 * share).toFixed(1)}\u00a0%`;

function bars(entries) {
  return element("ul", {className: "shares"}, ...entries.map(([name, share]) => {
    const bar = element("li", {}, element("span", {dir: "auto"}, name), element("b", {title: String(share)}, percent(share)));
    bar.style.setProperty("--share", `${100 * share}%`);
    return bar;
  }));
}

// The card of a photo, first without its answer.
function card(photo) {
  const url = URL.createObjectURL(photo), seen = element("div", {className: "seen"});
  const image = element("img", {src: url, alt: `your photo ${photo.name}`});
  image.addEventListener("load", () => URL.revokeObjectURL(url));
  image.addEventListener("error", () => { URL.revokeObjectURL(url); image.remove(); });
  seen.append(image);
  const entry = element("li", {}, seen, element("p", {className: "label none"}, "…"), element("p", {className: "file", dir: "auto"}, photo.name));
  byId("answers").prepend(entry);
  return entry;
}

function show(entry, photo, answer) {
  const title = entry.querySelector(".label"), [name, share] = answer.probabilities[0];
  title.className = answer.unsure ? "label none" : "label";
  title.replaceChildren(element("bdi", {}, answer.unsure ? "unsure" : answer.label), answer.unsure ? "" : ` ${percent(answer.confidence)}`);
  if (answer.unsure)
    entry.append(element("p", {className: "soft"}, `The most probable class, ${name}, has ${percent(share)}. Below ${percent(facts.threshold)} the model gives no answer.`));
  entry.append(bars(answer.probabilities.slice(0, FEW)));
  if (answer.probabilities.length > FEW) {
    const others = element("details", {}, element("summary", {}, `all ${answer.probabilities.length} classes`));
    others.addEventListener("toggle", () => others.append(bars(answer.probabilities.slice(FEW))), {once: true});
    entry.append(others);
  }
  if (answer.square) entry.querySelector(".seen").append(...network(answer.square, photo));
  entry.querySelector(".file").append(` · ${Math.round(answer.milliseconds)} ms`);
  entry.dataset.done = "answered";
}

// The square that the network sees, as a picture.
function network(square, photo) {
  const {crop} = facts.preprocess, canvas = element("canvas", {width: crop, height: crop, role: "img"});
  canvas.setAttribute("aria-label", `the part of ${photo.name} that the network sees`);
  const context = canvas.getContext("2d"), pixels = context.createImageData(crop, crop);
  for (let at = 0, from = 0; from < square.length; at += 4) {
    pixels.data.set(square.subarray(from, from += 3), at);
    pixels.data[at + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return [canvas, element("small", {}, "what the network sees")];
}

function refuse(entry, reason) {
  entry.querySelector(".label").replaceChildren(element("span", {className: "wrong"}, "not answered"));
  entry.append(element("p", {}, reason));
  entry.dataset.done = "refused";
}

let busy = false;
function add(photos) {
  waiting.push(...photos.map(photo => [card(photo), photo]));
  work();
}

async function work() {  // one photo after the other
  if (busy) return;
  busy = true;
  while (waiting.length) {
    const [entry, photo] = waiting.shift(), started = performance.now();
    try {
      if (!photo.size) throw new Error("The file is empty.");
      const answer = await engine.answer(photo);
      show(entry, photo, {milliseconds: performance.now() - started, ...answer});
    } catch (error) {
      refuse(entry, error.message);
    }
  }
  busy = false;
}

// Where photos come from: files, the clipboard, the camera.

byId("choose").addEventListener("click", () => byId("files").click());
for (const input of [byId("files"), byId("shot")])
  input.addEventListener("change", () => { add([...input.files]); input.value = ""; });

const drop = byId("drop");
for (const kind of ["dragover", "drop"]) addEventListener(kind, event => event.preventDefault());
addEventListener("dragover", () => drop.classList.add("over"));
addEventListener("dragleave", () => drop.classList.remove("over"));
addEventListener("drop", event => { drop.classList.remove("over"); add([...event.dataTransfer.files]); });
addEventListener("paste", event => add([...event.clipboardData.files]));

let stream = null;
byId("camera").addEventListener("click", async () => {
  if (!navigator.mediaDevices) return byId("shot").click();  // without HTTPS a page gets no camera, but a phone's app
  byId("camera").disabled = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment", width: {ideal: 1280}}});
  } catch (error) {
    byId("camera").disabled = false;
    return say(`The camera can't be used: ${error.message}`, true);
  }
  byId("take").disabled = true;
  byId("video").srcObject = stream;
  byId("live").hidden = false;
  byId("stop").focus();
});
byId("video").addEventListener("loadeddata", () => { byId("take").disabled = false; byId("take").focus(); });
function close() {
  stream?.getTracks().forEach(track => track.stop());
  byId("live").hidden = true;
  byId("camera").disabled = false;
  byId("camera").focus();
}
byId("stop").addEventListener("click", close);
byId("live").addEventListener("keydown", event => event.key === "Escape" && close());
byId("take").addEventListener("click", () => {
  const video = byId("video"), canvas = element("canvas", {width: video.videoWidth, height: video.videoHeight});
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob(blob => add([new File([blob], `camera ${new Date().toLocaleTimeString()}`, {type: blob.type})]), "image/png");
});

engine.ready.then(text => {
  say(text);
  byId("choose").disabled = byId("camera").disabled = false;
  document.body.dataset.ready = "yes";
}, error => say(error.message, true));
