"use strict";
// Shows what /events says, ten times a second at most. The device's clock is never compared with this one:
// the server tells ages, and this page adds the time since it heard them.

const STALE_MS = 1000; // a score older than this is not shown
const SILENT_MS = 2000; // no event for this long: no connection
const RECONNECT_MS = 5000; // an open connection that says nothing for this long is opened anew
const RETRY_MS = 1000;
const OUTCOME_MS = 6000;
const SPOKEN_EVERY_MS = 4000;

const VERDICTS = {
  good: { symbol: "✓", word: "Good" },
  usable: { symbol: "▲", word: "Usable" },
  reject: { symbol: "✕", word: "Reject" },
};
const REASONS = {
  no_retina: "No retina in view",
  corrupt_frame: "Picture cannot be read",
};
const FAULTS = {
  no_frame: ["Camera lost", "Check the camera's cable and power. Scoring goes on by itself when it is back."],
  stalled: ["Camera gives no pictures", "Wait a few seconds. If it stays so, unplug the camera and plug it in again."],
  frozen: ["Picture is frozen", "The camera repeats one picture. Unplug it and plug it in again."],
  engine_fault: [
    "Scoring has failed",
    "The neural network gives no score, so no picture is checked now. If this stays, restart the device.",
  ],
};
const NO_PICTURE = ["no_frame", "stalled", "frozen"]; // the reasons with which the picture is not live either
const CAMERA_WORDS = { waiting: "waiting", reading: "live", lost: "lost", stalled: "stalled", frozen: "frozen" };
const ENGINE_WORDS = { waiting: "waiting", ok: "working", fault: "failed" };

const byId = (id) => document.getElementById(id);
const picture = byId("picture");

let state = null; // the newest event
let heardAt = -Infinity; // when it came
const openedAt = performance.now();
let source = null;
let connectedAt = 0;
let refusal = ""; // why the server does not let us in
let pictures = 0;
let decided = null; // id of the shot that was decided on here
let deciding = false;
let outcomeTimer = 0;
let spokenAt = -Infinity;
let drawn = {};

function setText(id, text) {
  if (drawn[id] !== text) {
    drawn[id] = text;
    byId(id).textContent = text;
  }
}

// ---- connection

// Reads the events with fetch rather than EventSource, which does not tell why a server refuses.
async function connect() {
  source?.abort();
  const mine = new AbortController();
  source = mine;
  connectedAt = performance.now();
  try {
    const answer = await fetch("events", { signal: mine.signal });
    refusal = answer.ok ? "" : (await answer.json()).error;
    if (answer.ok) {
      showPictures();
      await listen(answer.body.pipeThrough(new TextDecoderStream()).getReader());
    }
  } catch {
    // the connection is lost; the page says so when nothing has been heard for a while
  }
  if (source === mine) {
    source = null;
    setTimeout(() => source || document.hidden || connect(), RETRY_MS);
  }
}

async function listen(reader) {
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    const newest = parts.filter((part) => part.startsWith("data: ")).pop();
    if (newest) {
      state = JSON.parse(newest.slice(6));
      heardAt = performance.now();
      render();
    }
  }
}

function showPictures() {
  pictures += 1;
  picture.src = `stream.mjpg?${pictures}`;
}

function disconnect() {
  source?.abort();
  source = null;
  picture.removeAttribute("src");
}

document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));

// ---- what is wrong, if anything

function resultAge(now) {
  return state === null || state.result_age_ms === null ? Infinity : state.result_age_ms + now - heardAt;
}

function trouble(now) {
  if (now - Math.max(heardAt, openedAt) > SILENT_MS) {
    const words = refusal
      ? `The device answers: ${refusal}.`
      : "Check that the device is on and in the same network. This page connects again by itself.";
    return { kind: "alarm", words: ["No connection", words] };
  }
  if (state === null) return { kind: "calm", words: ["Connecting", "One moment."] };
  if (state.results === 0) return { kind: "calm", words: ["Waiting for the camera", "The first picture has not come yet."] };
  if (resultAge(now) > SILENT_MS) {
    return { kind: "alarm", words: ["Scoring has stopped", "The device gives no results. If this stays, restart it."] };
  }
  return state.reason in FAULTS ? { kind: "alarm", words: FAULTS[state.reason] } : null;
}

// ---- drawing

function render() {
  const now = performance.now();
  const wrong = trouble(now);
  const connected = now - Math.max(heardAt, openedAt) <= SILENT_MS;
  const fresh = wrong === null && resultAge(now) <= STALE_MS;
  byId("banner").hidden = wrong === null;
  if (wrong !== null) {
    byId("banner").dataset.kind = wrong.kind;
    setText("banner-title", wrong.words[0]);
    setText("banner-words", wrong.words[1]);
  } else {
    setText("banner-title", "");
    setText("banner-words", "");
  }
  document.body.classList.toggle("stale", !fresh);
  renderPicture(connected && resultAge(now) <= STALE_MS && !NO_PICTURE.includes(state.reason));
  renderScore(fresh, now);
  setText("hint", fresh ? state.hint ?? REASONS[state.reason] ?? "" : "");
  if (state === null) return;
  setText("model", `${state.model.name} ${state.model.version}`);
  renderMarks();
  renderHistory();
  renderShot(connected);
  renderDevice(fresh, connected);
}

function renderPicture(live) {
  const some = picture.naturalWidth > 0 && picture.hasAttribute("src");
  picture.hidden = !some;
  byId("no-picture").hidden = some;
  byId("old-picture").hidden = !some || live;
  picture.parentElement.classList.toggle("old", !live);
}

function renderScore(fresh, now) {
  const verdict = fresh && state.score !== null ? VERDICTS[state.verdict] : null;
  const panel = document.querySelector(".score");
  panel.dataset.verdict = verdict ? state.verdict : "";
  setText("score", verdict ? String(Math.round(state.score)) : "–");
  byId("gauge-value").style.strokeDasharray = `${verdict ? state.score : 0} 200`;
  setText("verdict-symbol", verdict?.symbol ?? "");
  setText("verdict-word", verdict?.word ?? "No score");
  if (now - spokenAt >= SPOKEN_EVERY_MS) {
    const words = verdict ? verdict.word : "No score";
    if (drawn.spoken !== words) spokenAt = now;
    setText("spoken", words);
  }
}

function svgLine(x1, y1, x2, y2) {
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) line.setAttribute(name, value);
  return line;
}

function renderMarks() {
  const limits = [state.model.usable, state.model.good];
  if (drawn.limits === limits.join()) return;
  drawn.limits = limits.join();
  byId("limits").textContent = `good from ${limits[1]}, usable from ${limits[0]}`;
  byId("gauge-marks").replaceChildren(
    ...limits.map((limit) => {
      const angle = Math.PI * (1 - limit / 100);
      const at = (radius) => [100 + radius * Math.cos(angle), 108 - radius * Math.sin(angle)];
      return svgLine(...at(74), ...at(96));
    }),
  );
  byId("history-marks").replaceChildren(...limits.map((limit) => svgLine(0, 100 - limit, 119, 100 - limit)));
}

function renderHistory() {
  let path = "";
  let drawing = false;
  state.history.forEach((value, step) => {
    if (value !== null) path += `${drawing ? "L" : "M"}${step} ${100 - value}${drawing ? "" : "h.01"}`;
    drawing = value !== null;
  });
  if (drawn.path === path) return;
  drawn.path = path;
  byId("history-line").setAttribute("d", path);
  const values = state.history.filter((value) => value !== null).map(Math.round);
  byId("history").setAttribute(
    "aria-label",
    values.length ? `From ${Math.min(...values)} to ${Math.max(...values)}` : "No scores in the last minute",
  );
}

function renderShot(connected) {
  const shot = state.shot !== null && state.shot.id !== decided ? state.shot : null;
  const panel = byId("shot");
  panel.hidden = shot === null;
  if (shot === null) return;
  if (panel.dataset.id !== shot.id) {
    panel.dataset.id = shot.id;
    byId("shot-picture").src = `api/best.jpg?${encodeURIComponent(shot.id)}`;
  }
  panel.dataset.verdict = shot.verdict ?? "";
  setText("shot-score", String(Math.round(shot.score)));
  const verdict = VERDICTS[shot.verdict];
  setText("shot-verdict", verdict ? `${verdict.symbol} ${verdict.word}` : "");
  setText("shot-time", `taken ${new Date(shot.captured_at).toLocaleTimeString()}`);
  for (const id of ["accept", "retake"]) byId(id).disabled = deciding || !connected;
}

function renderDevice(fresh, connected) {
  const device = state.device;
  const unknown = "–";
  setText("camera", connected ? CAMERA_WORDS[state.camera] : unknown);
  setText("engine", connected ? ENGINE_WORDS[state.engine] : unknown);
  byId("camera").classList.toggle("bad", connected && !["reading", "waiting"].includes(state.camera));
  byId("engine").classList.toggle("bad", connected && state.engine === "fault");
  setText("fps", fresh ? `${state.fps.toFixed(1)} fps` : unknown);
  setText("age", fresh && state.age_ms !== null ? `${Math.round(state.age_ms)} ms` : unknown);
  setText("latency", fresh && state.latency_ms !== null ? `${Math.round(state.latency_ms)} ms` : unknown);
  setText("dropped", connected ? String(state.dropped) : unknown);
  const hot = Boolean(device.throttling?.length);
  const celsius = device.temperature_c == null ? unknown : `${Math.round(device.temperature_c)}\u00a0°C`;
  setText("temperature", connected ? celsius + (hot ? " slowed" : "") : unknown);
  byId("temperature").classList.toggle("bad", connected && hot);
  const free = device.memory_available_mb == null ? unknown : `${(device.memory_available_mb / 1000).toFixed(1)} GB`;
  setText("memory", connected ? free : unknown);
}

// ---- the operator's decision

function tell(words) {
  setText("outcome", words);
  clearTimeout(outcomeTimer);
  outcomeTimer = setTimeout(() => setText("outcome", ""), OUTCOME_MS);
}

async function decide(action) {
  if (deciding || byId("shot").hidden || byId(action).disabled) return;
  const { id } = state.shot;
  deciding = true;
  render();
  try {
    const answer = await fetch(`api/best/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ id }),
    });
    if (answer.ok) {
      decided = id;
      tell(action === "accept" ? "✓ Accepted and kept" : "Put aside: take another");
    } else {
      tell(`Not done: ${(await answer.json()).error}`);
    }
  } catch {
    tell("Not done: no connection. Try again.");
  }
  deciding = false;
  render();
}

byId("accept").addEventListener("click", () => decide("accept"));
byId("retake").addEventListener("click", () => decide("retake"));
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const action = { a: "accept", r: "retake" }[event.key.toLowerCase()];
  if (action) decide(action);
});

// ---- start

if (location.search) history.replaceState(null, "", location.pathname); // the token does not stay in the address
setInterval(() => {
  render();
  const now = performance.now();
  if (source && now - Math.max(heardAt, connectedAt) > RECONNECT_MS) connect();
}, 200);
if (!document.hidden) connect();
render();
