"use strict";

const form = document.getElementById("search");
const box = document.getElementById("q");
const status = document.getElementById("status");
const list = document.getElementById("hits");
const template = document.getElementById("hit");
const filters = ["label", "path", "min", "one", "top"].map((name) => document.getElementById(name));
const MOST_BYTES = 500 * 2 ** 20;
let about = null; // what the index holds
let latest = 0; // number of the newest search: answers to older ones are not shown
let playing = null;

function clock(seconds) {
  const whole = Math.floor(seconds / 60);
  const hours = Math.floor(whole / 60);
  const rest = (seconds % 60).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(whole % 60).padStart(2, "0")}:${rest}` : `${whole}:${rest}`;
}

function count(number, what) {
  return `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
}

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

async function ask(address, options = {}) {
  const response = await fetch(address, options);
  const answer = await response.json().catch(() => ({ error: `the page's server answers ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function asked(video = {}) {
  const values = new URLSearchParams(video); // like: a hit's key; file and name: a file that was sent
  if (!values.size && box.value.trim()) values.set("q", box.value.trim());
  for (const filter of filters) {
    const value = filter.type === "checkbox" ? (filter.checked ? "1" : "") : filter.value;
    if (value && !(filter.id === "top" && value === "24")) values.set(filter.id, value);
  }
  return values;
}

function video() {
  const values = new URLSearchParams(location.search);
  return Object.fromEntries(["like", "file", "name"].filter((name) => values.get(name)).map((name) => [name, values.get(name)]));
}

async function send(file) {
  if (file.size > MOST_BYTES) return say(`${file.name} is larger than 500 MB: cut out the part that matters`, true);
  const number = ++latest;
  list.classList.add("waiting");
  say(`reading ${file.name} ...`);
  try {
    const headers = { "Content-Type": "application/octet-stream" };
    const answer = await ask("/api/upload", { method: "POST", headers, body: file });
    if (number !== latest) return;
    box.value = "";
    search(asked({ file: answer.file, name: file.name }));
  } catch (error) {
    if (number !== latest) return;
    list.classList.remove("waiting");
    say(`${file.name}: ${error.message}`, true);
  }
}

async function search(values, push = true) {
  const number = ++latest;
  if (push) history.pushState(null, "", values.size ? `?${values}` : location.pathname);
  if (!values.get("q") && !values.get("like") && !values.get("file")) return welcome();
  list.classList.add("waiting");
  try {
    const answer = await ask(`/api/search?${values}`);
    if (number === latest) show(answer, values.get("name"));
  } catch (error) {
    if (number !== latest) return;
    stop();
    list.replaceChildren();
    say(error.message === "Failed to fetch" ? "the page's server does not answer: is it still running?" : error.message, true);
  } finally {
    if (number === latest) list.classList.remove("waiting");
  }
}

function welcome() {
  stop();
  list.classList.remove("waiting");
  list.replaceChildren(...(about ? about.samples : []).map(card));
  list.classList.add("samples");
  const some = about && about.samples.length ? " Some of what is here:" : "";
  say(about && !about.videos ? "The index is empty: add videos with vactk retrieve --add." : `Say what happens in a video, and press Enter; or drop a video.${some}`);
}

function show(answer, name) {
  stop();
  list.classList.remove("samples");
  list.replaceChildren(...answer.hits.map(card));
  const what = answer.like ? `videos like ${name || "it"}` : answer.hits.length === 1 ? "hit" : "hits";
  const time = `${answer.latency_ms < 10 ? answer.latency_ms.toFixed(1) : Math.round(answer.latency_ms)} ms`;
  say(answer.hits.length ? `${answer.hits.length} ${what} in ${time}` : `nothing found in ${time}: try other words or fewer filters`);
}

function card(hit) {
  const item = template.content.firstElementChild.cloneNode(true);
  item.hit = hit;
  item.setAttribute("aria-label", `${hit.rank}. ${hit.name}, ${clock(hit.start_s)} to ${clock(hit.end_s)}, score ${hit.score.toFixed(3)}`);
  const picture = item.querySelector("img");
  picture.src = `/frame/${hit.key}.jpg`;
  picture.addEventListener("error", () => fail(item, picture.src));
  item.querySelector(".score").textContent = hit.score.toFixed(3);
  item.querySelector(".time").textContent = `${clock(hit.start_s)} - ${clock(hit.end_s)}`;
  const name = item.querySelector(".name");
  name.textContent = hit.name;
  name.title = hit.video;
  item.querySelector(".label").textContent = hit.label;
  item.querySelector(".screen").addEventListener("click", (event) => {
    if (event.target.tagName !== "VIDEO") toggle(item); // a video has controls of its own
  });
  item.querySelector("button").addEventListener("click", () => alike(item));
  return item;
}

async function fail(item, address) {
  const why = await ask(address).catch((error) => error);
  item.querySelector(".screen").dataset.why = why.message || "it cannot be shown";
  item.classList.add("gone");
}

function toggle(item) {
  if (item.classList.contains("gone")) return;
  const shown = item.querySelector("video");
  if (!shown) play(item);
  else if (shown.paused) shown.play();
  else shown.pause();
}

function play(item) {
  stop();
  const { key, start_s: start, end_s: end } = item.hit;
  const video = document.createElement("video");
  video.controls = true;
  video.playsInline = true;
  video.poster = `/frame/${key}.jpg`;
  let from = start;
  let until = end;
  video.addEventListener("loadedmetadata", () => {
    if (Math.abs(video.currentTime - from) > 0.05) video.currentTime = from;
  });
  video.addEventListener("timeupdate", () => {
    if (video.currentTime >= until && !video.paused) {
      video.pause();
      video.currentTime = from;
    }
  });
  video.addEventListener("error", () => {
    if (video.src.includes("/clip/")) return fail(item, video.src);
    from = 0; // what the browser cannot play comes as a clip of the hit alone
    until = Infinity;
    video.src = `/clip/${key}.mp4`;
    video.play().catch(() => {});
  });
  video.src = `/video/${key}#t=${start},${end}`;
  item.querySelector(".screen").prepend(video);
  item.classList.add("playing");
  playing = item;
  video.play().catch(() => {});
}

function stop() {
  if (!playing) return;
  const video = playing.querySelector("video");
  if (video) {
    video.pause();
    video.removeAttribute("src");
    video.remove();
  }
  playing.classList.remove("playing");
  playing = null;
}

function alike(item) {
  box.value = "";
  search(asked({ like: item.hit.key }));
  scrollTo(0, 0);
}

function move(item, key) {
  const items = [...list.children];
  const place = items.indexOf(item);
  const across = items.filter((other) => other.offsetTop === items[0].offsetTop).length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
  const next = place + steps[key];
  if (next < 0 && key === "ArrowUp") box.focus();
  else if (items[next]) items[next].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const item = document.activeElement.classList.contains("hit") ? document.activeElement : null;
  const writes = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement.tagName);
  if (event.key === "/" && !writes) box.focus(), box.select();
  else if (event.key === "Escape") playing ? stop() : box.focus();
  else if (event.key === "ArrowDown" && document.activeElement === box && list.firstElementChild) list.firstElementChild.focus();
  else if (item && event.key.startsWith("Arrow")) move(item, event.key);
  else if (item && (event.key === "Enter" || event.key === " ")) toggle(item);
  else if (item && event.key.toLowerCase() === "m") alike(item);
  else return;
  event.preventDefault();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  search(asked());
});
for (const filter of filters) {
  filter.addEventListener("change", () => search(asked(video())));
}
const chosen = document.getElementById("file");
chosen.addEventListener("change", () => {
  if (chosen.files.length) send(chosen.files[0]);
  chosen.value = "";
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});

function fromAddress() {
  const values = new URLSearchParams(location.search);
  box.value = values.get("q") || "";
  for (const filter of filters) {
    if (filter.type === "checkbox") filter.checked = values.get(filter.id) === "1";
    else filter.value = values.get(filter.id) || (filter.id === "top" ? "24" : "");
  }
  return search(values, false);
}
addEventListener("popstate", fromAddress);

ask("/api/about")
  .then((answer) => {
    about = answer;
    document.title = `${about.title} - vactk`;
    document.getElementById("about").textContent = `${about.title}: ${count(about.videos, "video")}, ${count(about.windows, "window")}, model ${about.model}`;
    const label = filters[0];
    label.append(...about.labels.map((name) => new Option(name, name)));
    label.value = new URLSearchParams(location.search).get("label") || "";
    document.getElementById("label-filter").hidden = !about.labels.length;
    if (latest === 1 && !list.childElementCount && !["q", "like", "file"].some((name) => new URLSearchParams(location.search).get(name))) welcome();
  })
  .catch((error) => say(error.message, true));
fromAddress(); // at once: what is written while the labels are on their way stays
