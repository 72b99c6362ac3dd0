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
    const reply = await fetch("predict", {method: "POST", body: photo, headers}).catch(() => { throw new Error("the service can't be reached"); });
    if (reply.status === 401) {
      door.hidden = false;
      token.focus();
    }
    const found = await reply.json(), entry = found.predictions?.[0];
    if (found.error || entry.error) throw new Error(found.error ?? entry.error);
    return {...entry, probabilities: Object.entries(entry.probabilities).sort((one, other) => other[1] - one[1]), square: await seen(photo, facts.preprocess)};
  }
  return {answer, ready: Promise.resolve(`Answered by ${location.host} on its ${facts.device}.`)};
}

// The square of a photo, for people to look at; null if this browser can't read the photo.
const seen = (photo, preprocess) => decoded(photo, preprocess.resize).then(read => square(read, preprocess), () => null);

function browser(facts, say) {
  const worker = new Worker("worker.js", {type: "module"}), asked = [];
  let settle;
  const ready = new Promise((resolve, reject) => { settle = {resolve, reject}; });
  worker.onerror = event => settle.reject(new Error(`The model can't be loaded: ${event.message ?? "this browser has no module workers"}`));
  worker.onmessage = ({data}) => {
    if (data.loading) say(data.loading);
    else if (data.ready) settle.resolve(data.ready);
    else if (data.failed) settle.reject(new Error(data.failed));
    else if (data.error) asked.shift().reject(new Error(data.error));
    else asked.shift().resolve(data.answer);
  };
  worker.postMessage({facts, device: new URLSearchParams(location.search).get("device")});
  const answer = photo => new Promise((resolve, reject) => { asked.push({resolve, reject}); worker.postMessage({photo}); });
  return {answer, ready};
}
