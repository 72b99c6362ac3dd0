// Where answers are computed: by the service that the page came from, or in this browser.
import {decoded, square} from "./prepare.js";

// {ready: a promise of a sentence, answer(photo): {label, confidence, probabilities: [[class, share], ...], unsure, square}}
export const engineOf = (facts, say) => (facts.engine === "service" ? service(facts, say) : browser(facts, say));

function service(facts, say) {
  const token = document.getElementById("token"), door = document.getElementById("door");
  door.addEventListener("submit", event => { event.preventDefault(); door.hidden = true; say("Send the photo again."); });
  async function answer(photo) {
    const headers = {"Content-Type": "application/octet-stream"};
    if (token.value) headers.Authorization = `Bearer ${token.value}`;
    const reply = await fetch("predict", {method: "POST", body: photo, headers}).catch(error => { throw new Error(`the service can't be asked (${error.message})`); });
    if (reply.status === 401) {
      door.hidden = false;
      token.focus();
    }
    const found = await reply.json().catch(() => { throw new Error(`the service answered ${reply.status} ${reply.statusText}`); });
    const entry = found.predictions?.[0];
    if (found.error || entry.error) throw new Error(found.error ?? entry.error);
    return {...entry, probabilities: Object.entries(entry.probabilities).sort((one, other) => other[1] - one[1]), square: await seen(photo, facts.preprocess)};
  }
  return {answer, ready: Promise.resolve(`Answered by ${location.host} on its ${facts.device}.`)};
}

// The square of a photo, for people to look at; null if this browser can't read the photo.
const seen = (photo, preprocess) => decoded(photo, preprocess.resize).then(read => square(read, preprocess)).catch(() => null);

function browser(facts, say) {
  const worker = new Worker("worker.js", {type: "module"}), asked = [];
  let settle;
  const ready = new Promise((resolve, reject) => { settle = {resolve, reject}; });
  worker.onerror = event => {  // of the script itself; what the model raises comes as a message
    const error = new Error(`The model can't be loaded: ${event.message ?? "worker.js is missing, or this browser has no module workers"}`);
    settle.reject(error);
    for (const each of asked.splice(0)) each.reject(error);
  };
  worker.onmessage = ({data}) => {
    if (data.loading) say(data.loading);
    else if (data.ready) settle.resolve(data.ready);
    else if (data.failed) settle.reject(new Error(data.failed));
    else if (data.error) asked.shift().reject(new Error(data.error));
    else asked.shift().resolve(data.answer);
  };
  worker.postMessage({facts, device: new URLSearchParams(location.search).get("device")});
  const answer = photo => ready.then(() => new Promise((resolve, reject) => { asked.push({resolve, reject}); worker.postMessage({photo}); }));
  return {answer, ready};
}
