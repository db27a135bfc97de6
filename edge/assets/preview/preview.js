"use strict";
// Shows what /events says, ten times a second at most. The device's clock is never compared with this one:
// the server tells ages, and this page adds the time since it heard them.

const STALE_MS = 1000; // a score older than this is not shown
const SILENT_MS = 2000; // no event for this long: no connection
const RECONNECT_MS = 5000; // an open connection that says nothing for this long is opened anew
const RETRY_MS = 1000;
const OUTCOME_MS = 6000;
const SPOKEN_EVERY_MS = 4000;

const byId = (id) => document.getElementById(id);

// ---- words, in the language of the page

const LANGUAGE = document.documentElement.lang;
const TEXTS = JSON.parse(byId("texts").textContent);
const UNKNOWN = "–";

// The text of a key, with values in the places that it names: "{limit}".
function say(key, values = {}) {
  return TEXTS[key].replace(/\{(\w+)\}/g, (place, name) => values[name]);
}

function formatter(digits) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: false };
  return new Intl.NumberFormat(LANGUAGE, options);
}

const WHOLE = formatter(0);
const TENTHS = formatter(1);

const VERDICTS = {
  good: { symbol: "✓", word: say("good") },
  usable: { symbol: "▲", word: say("usable") },
  reject: { symbol: "✕", word: say("reject") },
};
const REASONS = {
  no_retina: say("no_retina"),
  ambiguous_field: say("ambiguous_field"),
  corrupt_frame: say("corrupt_frame"),
};
const ADVICE = {
  no_retina: say("no_retina"),
  ambiguous_field: say("ambiguous_field_advice"),
  corrupt_frame: say("corrupt_frame_advice"),
};
const DECISIONS = { waiting: say("shot_waits"), accepted: say("shot_accepted"), retaken: say("shot_retaken"), kept: say("shot_kept") };
const FAULTS = {
  no_frame: [say("camera_lost"), say("camera_lost_advice")],
  stalled: [say("camera_stalled"), say("camera_stalled_advice")],
  frozen: [say("picture_frozen"), say("picture_frozen_advice")],
  engine_fault: [say("scoring_failed"), say("scoring_failed_advice")],
};
const NO_PICTURE = ["no_frame", "stalled", "frozen"]; // the reasons with which the picture is not live either
const CAMERA_WORDS = {
  waiting: say("waiting"),
  reading: say("live"),
  lost: say("lost"),
  stalled: say("stalled"),
  frozen: say("frozen"),
};
const EYES = { R: say("eye_right"), L: say("eye_left"), B: say("eye_both") };
const ENGINE_WORDS = { waiting: say("waiting"), ok: say("working"), fault: say("failed") };

// ---- what is known

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
let settingEye = false;
let outcomeTimer = 0;
let spokenAt = -Infinity;
let fieldShown = false;
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
    refusal = answer.ok ? "" : reasonOf(await answer.json());
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

// Why the server refuses: in our language where the table has it, otherwise as the device put it.
function reasonOf({ error, shown }) {
  return shown ?? error;
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
    const words = refusal ? say("refused", { why: refusal }) : say("no_connection_advice");
    return { kind: "alarm", words: [say("no_connection"), words] };
  }
  if (state === null) return { kind: "calm", words: [say("connecting"), say("connecting_advice")] };
  if (state.results === 0) return { kind: "calm", words: [say("camera_awaited"), say("camera_awaited_advice")] };
  if (resultAge(now) > SILENT_MS) {
    return { kind: "alarm", words: [say("scoring_stopped"), say("scoring_stopped_advice")] };
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
  renderScore(fresh, wrong, now);
  setText("hint", fresh ? state.hint ?? ADVICE[state.reason] ?? "" : "");
  if (state === null) return;
  setText("model", `${state.model.name} ${state.model.version} (${state.model.origin})`);
  byId("demonstration").hidden = !state.model.demonstration;
  renderMarks();
  renderHistory();
  renderShots();
  renderShot(connected);
  renderEye(connected);
  renderDevice(fresh, connected);
  byId("log-out").hidden = !state.login;
}

function renderPicture(live) {
  const some = picture.naturalWidth > 0 && picture.hasAttribute("src");
  picture.hidden = !some;
  byId("no-picture").hidden = some;
  byId("old-picture").hidden = !some || live;
  picture.parentElement.classList.toggle("old", !live);
  renderField(live);
}

// The field that is scored, on the picture: its square, and the circle within.
function renderField(live) {
  const field = live && fieldShown ? state.field : null;
  byId("field").toggleAttribute("hidden", field === null);
  if (field === null) return;
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  byId("field").setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [x, y, across, down] = [field.x * width, field.y * height, field.width * width, field.height * height];
  const shapes = {
    "field-square": { x, y, width: across, height: down },
    "field-round": { cx: x + across / 2, cy: y + down / 2, rx: across / 2, ry: down / 2 },
  };
  for (const [id, places] of Object.entries(shapes)) {
    for (const [name, value] of Object.entries(places)) byId(id).setAttribute(name, value);
  }
}

function toggleField() {
  fieldShown = !fieldShown;
  byId("show-field").setAttribute("aria-pressed", fieldShown);
  render();
}

// Why there is no score now, in words.
function whyNoScore(wrong) {
  if (wrong !== null) return wrong.words[0];
  return REASONS[state.reason] ?? say("old_result");
}

function renderScore(fresh, wrong, now) {
  const verdict = fresh && state.score !== null ? VERDICTS[state.verdict] : null;
  const panel = document.querySelector(".score");
  panel.dataset.verdict = verdict ? state.verdict : "";
  const word = verdict?.word ?? say("no_score");
  setText("score", verdict ? WHOLE.format(state.score) : UNKNOWN);
  byId("gauge-value").style.strokeDasharray = `${verdict ? state.score : 0} 200`;
  setText("verdict-symbol", verdict?.symbol ?? "");
  setText("verdict-word", word);
  const why = verdict ? "" : whyNoScore(wrong);
  setText("why", why);
  if (now - spokenAt >= SPOKEN_EVERY_MS) {
    const words = verdict ? word : say("no_score_because", { why });
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
  byId("limits").textContent = say("limits", { good: limits[1].toLocaleString(LANGUAGE), usable: limits[0].toLocaleString(LANGUAGE) });
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
    values.length
      ? say("history_range", { lowest: Math.min(...values), highest: Math.max(...values) })
      : say("no_history"),
  );
}

function renderShot(connected) {
  const shot = state.shot !== null && state.shot.id !== decided ? state.shot : null;
  const panel = byId("shot");
  panel.hidden = shot === null;
  document.body.classList.toggle("asked", shot !== null);
  if (shot === null) return;
  if (panel.dataset.id !== shot.id) {
    panel.dataset.id = shot.id;
    byId("shot-picture").src = `api/best.jpg?${encodeURIComponent(shot.id)}`;
  }
  panel.dataset.verdict = shot.verdict ?? "";
  setText("shot-score", WHOLE.format(shot.score));
  const verdict = VERDICTS[shot.verdict];
  setText("shot-verdict", verdict ? `${verdict.symbol} ${verdict.word}` : "");
  setText("shot-time", say("taken_at", { time: timeOf(shot.captured_at) }));
  for (const id of ["accept", "retake"]) byId(id).disabled = deciding || !connected;
}

function timeOf(when) {
  return new Date(when).toLocaleTimeString(LANGUAGE);
}

// What was kept in this session, the newest first.
function renderShots() {
  byId("shots").hidden = state.shots.length === 0;
  const rows = JSON.stringify(state.shots);
  if (drawn.shots === rows) return;
  drawn.shots = rows;
  byId("shot-list").replaceChildren(
    ...state.shots.map((shot) => {
      const row = document.createElement("li");
      row.dataset.verdict = shot.verdict ?? "";
      const verdict = VERDICTS[shot.verdict];
      const score = `${WHOLE.format(shot.score)} ${verdict?.symbol ?? ""}`;
      const parts = [say("eye_number", { number: shot.eye }), score, timeOf(shot.captured_at), DECISIONS[shot.decision]];
      row.append(...parts.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
      return row;
    }),
  );
}

// Whose eye comes next: the page is told which eye it is, and never a name.
function renderEye(connected) {
  const panel = byId("eye");
  panel.hidden = state.eye === null;
  if (state.eye === null) return;
  const { known, laterality } = state.eye;
  panel.classList.toggle("unknown", !known);
  setText("eye-state", known ? say("eye_known", { eye: EYES[laterality] ?? UNKNOWN }) : say("eye_unknown"));
  for (const button of panel.querySelectorAll("button")) button.disabled = settingEye || !connected;
}

// A number in the unit of a text; a dash where it is not known.
function withUnit(key, format, value) {
  return value == null ? UNKNOWN : say(key, { number: format.format(value) });
}

function gigabytes(megabytes) {
  return megabytes == null ? null : megabytes / 1000;
}

function renderDevice(fresh, connected) {
  const device = state.device;
  setText("camera", connected ? CAMERA_WORDS[state.camera] : UNKNOWN);
  setText("engine", connected ? ENGINE_WORDS[state.engine] : UNKNOWN);
  byId("camera").classList.toggle("bad", connected && !["reading", "waiting"].includes(state.camera));
  byId("engine").classList.toggle("bad", connected && state.engine === "fault");
  setText("fps", withUnit("frames_per_second", TENTHS, fresh ? state.fps : null));
  setText("age", withUnit("milliseconds", WHOLE, fresh ? state.age_ms : null));
  setText("latency", withUnit("milliseconds", WHOLE, fresh ? state.latency_ms : null));
  setText("dropped", connected ? String(state.dropped) : UNKNOWN);
  const hot = connected && Boolean(device.throttling?.length);
  const temperature = withUnit("celsius", WHOLE, connected ? device.temperature_c : null);
  setText("temperature", hot ? say("slowed", { temperature }) : temperature);
  byId("temperature").classList.toggle("bad", hot);
  setText("memory", withUnit("gigabytes", TENTHS, connected ? gigabytes(device.memory_available_mb) : null));
  byId("temperature").parentElement.hidden = device.temperature_c == null; // this device does not know it
  byId("memory").parentElement.hidden = device.memory_available_mb == null;
}

// ---- the operator's decision

function tell(words) {
  setText("outcome", words);
  clearTimeout(outcomeTimer);
  outcomeTimer = setTimeout(() => setText("outcome", ""), OUTCOME_MS);
}

// Sends JSON; whether the device did it. Why not, is told.
async function ask(path, content, done) {
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    });
    tell(answer.ok ? done : say("not_done", { why: reasonOf(await answer.json()) }));
    return answer.ok;
  } catch {
    tell(say("not_done_offline"));
    return false;
  }
}

async function decide(action) {
  if (deciding || byId("shot").hidden || byId(action).disabled) return;
  const { id } = state.shot;
  deciding = true;
  render();
  const done = action === "accept" ? `✓ ${say("accepted")}` : say("put_aside");
  if (await ask(`api/best/${action}`, { id }, done)) decided = id;
  deciding = false;
  render();
}

byId("accept").addEventListener("click", () => decide("accept"));
byId("retake").addEventListener("click", () => decide("retake"));
byId("show-field").addEventListener("click", toggleField);
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest?.("input, select, textarea")) return; // letters that are typed are no decision
  if (event.key.toLowerCase() === "f") toggleField();
  const action = { a: "accept", r: "retake" }[event.key.toLowerCase()];
  if (action) decide(action);
});

// ---- the eye and its patient

async function setEye(content, done) {
  if (settingEye) return false;
  settingEye = true;
  render();
  const ok = await ask("api/eye", content, done);
  settingEye = false;
  render();
  return ok;
}

const eyeForm = byId("eye-form");

// The patient stays for the other eye; which eye it is has to be said each time.
eyeForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = Object.fromEntries([...new FormData(eyeForm)].filter(([, value]) => value !== ""));
  if (said.birth_date) said.birth_date = said.birth_date.replaceAll("-", "");
  if (await setEye(said, say("eye_taken"))) {
    for (const button of eyeForm.elements.laterality) button.checked = false;
  }
});
byId("end-eye").addEventListener("click", async () => {
  if (await setEye({}, say("eye_ended"))) eyeForm.reset();
});

byId("log-out").addEventListener("click", async () => {
  try {
    await fetch("logout", { method: "POST" });
    location.reload();
  } catch {
    tell(say("not_done_offline"));
  }
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
