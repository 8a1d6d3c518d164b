// The console: signs in, follows the stream of the server, and shows what it says. The admin key is sent once and kept nowhere.

import { call } from "./api.js";
import { announce, byId, el, setText, showError } from "./elements.js";
import { laneTiles } from "./console-lanes.js";
import { queueTiles } from "./console-queues.js";
import { eventTable, taskTable } from "./console-tables.js";
import { piecesOf, showTimeline } from "./console-timeline.js";
import { follow } from "./stream.js";

// That somebody signed in on this browser: the session itself is in a cookie that no script can read.
const SIGNED_IN = "warmlane.console.signed-in";
const MOST_EVENTS = 3000;
// The server says something at least every 15 s; a connection that is silent for longer is dead, though nobody noticed.
const SILENCE_MS = 40000;
// The browser tries again after 3 s. Is it not back by then, the session may be over.
const DOUBT_MS = 5000;

const showLanes = laneTiles(byId("lanes"), isOver);
const showQueues = queueTiles(byId("queues"), isOver);
const showTasks = taskTable(byId("tasks"));
const showEvents = eventTable({ place: byId("events"), note: byId("events-note"), kind: byId("events-kind"), text: byId("events-text") });

let end = null;
let doubt = null;
let heardMs = 0;
let snapshot = null;
let skewMs = 0;
let events = [];

function remembers() {
  try {
    return localStorage.getItem(SIGNED_IN) !== null;
  } catch {
    return false;
  }
}

function remember(isSignedIn) {
  try {
    if (isSignedIn) localStorage.setItem(SIGNED_IN, "1");
    else localStorage.removeItem(SIGNED_IN);
  } catch {
    // Blocked: the page asks for the key each time that it is opened.
  }
}

function connection(kind, text) {
  const place = byId("connection");
  place.hidden = !text;
  place.className = `badge ${kind}`;
  setText(place, text);
  byId("state").classList.toggle("stale", kind === "warn" || kind === "bad");
}

// Signing in and out.

function showLogin(message) {
  stop();
  remember(false);
  snapshot = null;
  events = [];
  connection("", "");
  byId("state").hidden = true;
  byId("sign-out").hidden = true;
  byId("login").hidden = false;
  showError(byId("page-error"), null);
  showError(byId("login-error"), message);
  byId("key").focus();
}

async function signIn(submitted) {
  submitted.preventDefault();
  const field = byId("key");
  const key = field.value;
  if (!key) {
    showError(byId("login-error"), { detail: "Type the admin key.", userAction: "`warmlane up` prints it; elsewhere it is WARMLANE_ADMIN_KEY of the bridge." });
    field.focus();
    return;
  }
  const button = byId("login").querySelector("button");
  button.disabled = true;
  try {
    await call("admin/session", { method: "POST", headers: { "X-Admin-Key": key } });
    field.value = "";
    remember(true);
    start();
    byId("main").focus();
  } catch (error) {
    showError(byId("login-error"), error);
    field.select();
  } finally {
    button.disabled = false;
  }
}

async function signOut() {
  try {
    await call("admin/session", { method: "DELETE" });
  } catch (error) {
    // A session that is over already is what was wanted.
    if (error.status !== 401) {
      showError(byId("page-error"), error);
      return;
    }
  }
  showLogin(null);
  announce("Signed out.");
}

/** Whether an error says that the session is over; then the page asks for the key again. */
function isOver(error) {
  if (error.status !== 401) return false;
  showLogin(error);
  return true;
}

// The stream.

function start() {
  stop();
  showError(byId("login-error"), null);
  byId("login").hidden = true;
  byId("sign-out").hidden = false;
  connection("warn", "connecting");
  heardMs = Date.now();
  end = follow("console/events", {
    on: { snapshot: onSnapshot, events: onEvents, away: onAway },
    onOpen: () => {
      clearTimeout(doubt);
      doubt = null;
      heardMs = Date.now();
    },
    onGone: () => {
      connection("warn", "reconnecting");
      doubt ??= setTimeout(ask, DOUBT_MS);
    },
  });
}

function stop() {
  clearTimeout(doubt);
  doubt = null;
  end?.();
  end = null;
}

/** An event stream does not say why it was refused: this call does. */
async function ask() {
  doubt = null;
  if (!end) return;
  try {
    await call("admin/session");
  } catch (error) {
    if (!end) return;
    if (!isOver(error) && !error.isLost && error.status !== 503) showError(byId("page-error"), error);
  }
}

function onSnapshot(state) {
  heardMs = Date.now();
  skewMs = Date.parse(state.taken_at) - Date.now();
  if (!snapshot) chooseWindow(state);
  snapshot = state;
  connection("good", "live");
  byId("state").hidden = false;
  show();
}

/** The shortest time that shows all since admission's start, at most an hour; until the person chooses. */
function chooseWindow({ taken_at: takenAt, started_at: startedAt }) {
  const passedS = startedAt ? (Date.parse(takenAt) - Date.parse(startedAt)) / 1000 : Infinity;
  const windows = [300, 900, 3600];
  byId("window").value = String(windows.find((one) => passedS < 0.9 * one) ?? 3600);
}

function onEvents(message) {
  heardMs = Date.now();
  events = (message.reset ? [] : events).concat(message.events).slice(-MOST_EVENTS);
  showEvents(events);
  showLaneTimes();
}

function onAway({ reason }) {
  heardMs = Date.now();
  connection("bad", "admission is away");
  announce(`Admission does not answer: ${reason} What is shown may be old.`);
}

// What is shown.

function nowMs() {
  return Date.now() + skewMs;
}

function show() {
  if (!snapshot) return;
  const passedS = Math.max(0, (nowMs() - Date.parse(snapshot.taken_at)) / 1000);
  showProblems(snapshot);
  byId("lanes-empty").hidden = snapshot.lanes.length > 0;
  showLanes(snapshot.lanes);
  showQueues(snapshot.queues, snapshot.degraded, passedS);
  showTasks(snapshot.tasks, nowMs());
  showLaneTimes();
}

function showProblems({ problems, controller_epoch: epoch, store }) {
  const worst = problems.find((one) => one.severity !== "info");
  const commit = store.slowest_commit_seconds === null ? "" : ` Slowest commit of the last minute: ${(1000 * store.slowest_commit_seconds).toFixed(0)} ms.`;
  setText(byId("summary"), `${worst ? `${problems.length} to look at.` : "All is well."} Epoch of admission: ${epoch}.${commit}`);
  const list = byId("problems");
  const told = JSON.stringify(problems);
  if (list.dataset.told === told) return;
  list.dataset.told = told;
  const item = (one) => el("li", { class: one.severity, "data-code": one.code }, one.text, el("span", { class: "quiet small" }, ` Runbook: ${one.runbook}`));
  list.replaceChildren(...problems.map(item));
  announceNew(problems);
}

let announced = new Set();

function announceNew(problems) {
  const named = new Set(problems.filter((one) => one.severity !== "info").map((one) => `${one.code} ${one.lane} ${one.model}`));
  const fresh = problems.filter((one) => named.has(`${one.code} ${one.lane} ${one.model}`) && !announced.has(`${one.code} ${one.lane} ${one.model}`));
  if (fresh.length) announce(fresh.map((one) => one.text).join(" "));
  else if (announced.size && !named.size) announce("All is well again.");
  announced = named;
}

function showLaneTimes() {
  if (!snapshot) return;
  const to = nowMs();
  const from = to - 1000 * Number(byId("window").value);
  const rows = snapshot.lanes.map((lane) => ({ lane, pieces: piecesOf(lane, events, from, to) }));
  showTimeline(byId("timeline"), byId("timeline-table"), rows, from, to);
}

function tick() {
  if (!end) return;
  if (Date.now() - heardMs > SILENCE_MS) start();
  else show();
}

byId("login").addEventListener("submit", signIn);
byId("sign-out").addEventListener("click", signOut);
byId("window").addEventListener("change", showLaneTimes);
new ResizeObserver(showLaneTimes).observe(byId("timeline"));
setInterval(tick, 5000);

if (remembers()) start();
else showLogin(null);
