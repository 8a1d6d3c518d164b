// Tables of the console: recent tasks with their routes, and events with a filter.

import { bytes, el, seconds, setText } from "./elements.js";

const MOST_ROWS = 200;
const TASK_COLUMNS = ["Task", "Model", "State", "Route", "Reason", "Attempt", "Accepted"];
const EVENT_COLUMNS = ["Time", "Event", "About", "Value", "Reason"];

/** Shows tasks in this place; nothing is drawn anew that is as it was. */
export function taskTable(place) {
  const body = el("tbody");
  const empty = el("p", { class: "quiet" }, "No task was accepted yet.");
  const whole = tableOf(TASK_COLUMNS, body);
  place.append(empty, whole);
  return (tasks, nowMs) => {
    empty.hidden = tasks.length > 0;
    whole.hidden = !tasks.length;
    showRows(body, tasks.map((task) => taskCells(task, nowMs)));
  };
}

function taskCells(task, nowMs) {
  return [
    shortId(task.task_id),
    `${task.model} ${task.mode}`,
    stateOf(task),
    routeOf(task),
    task.fallback_reason ? `fallback: ${task.fallback_reason}` : (task.error_code ?? ""),
    task.attempt ? String(task.attempt) : "",
    `${seconds((nowMs - Date.parse(task.created_at)) / 1000)} ago`,
  ];
}

/** Ids begin with their time: the end tells them apart. */
export function shortId(taskId) {
  return taskId.slice(-8);
}

function stateOf(task) {
  if (task.status === "done") return "done";
  if (task.status === "failed") return task.error_code === "cancelled" ? "cancelled" : "failed";
  if (task.status === "pending") {
    const eta = task.eta_seconds === null ? "" : `, done in ${seconds(task.eta_seconds)}`;
    return task.queue_position === null ? "queued" : `queued, ${task.queue_position} ahead${eta}`;
  }
  return `${task.stage_detail ?? task.stage}, ${task.progress} %`;
}

function routeOf(task) {
  const kinds = { dedicated: "dedicated", degraded_shared: "degraded pool" };
  const kind = kinds[task.lane_mode] ?? "not decided";
  return task.lane ? `${kind}: ${task.lane}` : kind;
}

/** Keeps events and shows those that a filter lets through, newest first. */
export function eventTable({ place, note, kind, text }) {
  const body = el("tbody");
  place.append(tableOf(EVENT_COLUMNS, body));
  let events = [];

  function show() {
    const wanted = text.value.trim().toLowerCase();
    const found = events.filter((event) => !kind.value || kindOf(event) === kind.value).filter((event) => !wanted || searched(event).includes(wanted));
    showRows(body, found.slice(-MOST_ROWS).reverse().map(eventCells));
    setText(note, found.length > MOST_ROWS ? `The newest ${MOST_ROWS} of ${found.length}.` : `${found.length} of ${events.length}.`);
  }

  kind.addEventListener("change", show);
  text.addEventListener("input", show);
  return (kept) => {
    events = kept;
    show();
  };
}

function kindOf(event) {
  if (event.task_id) return "task";
  if (event.lane) return "lane";
  return event.model ? "model" : "admission";
}

function searched(event) {
  return [event.event_type, event.value, event.reason, event.lane, event.model, event.task_id].join(" ").toLowerCase();
}

function eventCells(event) {
  const about = [event.lane, event.model, event.task_id && shortId(event.task_id), event.attempt && event.task_id ? `attempt ${event.attempt}` : null];
  return [new Date(event.created_at).toLocaleTimeString(), event.event_type, about.filter(Boolean).join(", "), event.value, event.memory ? recordOf(event) : event.reason];
}

function recordOf({ memory, reason }) {
  if (memory.unmeasured_reason) return memory.unmeasured_reason;
  const peak = memory.peak_allocated_bytes === null ? "peak not known" : `peak ${bytes(memory.peak_allocated_bytes)}`;
  const predicted = memory.predicted_peak_bytes === null ? "" : ` of ${bytes(memory.predicted_peak_bytes)} predicted`;
  const out = memory.out_of_memory.map((one) => `, ran out in ${one.phase} with ${one.placement}`).join("");
  return `${peak}${predicted}${memory.placement ? `, ${memory.placement}` : ""}${out}${reason ? `, ${reason}` : ""}`;
}

function tableOf(columns, body) {
  return el("table", {}, el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)))), body);
}

function showRows(body, rows) {
  rows.forEach((cells, place) => {
    let row = body.children[place];
    if (!row) {
      row = el("tr", {}, cells.map((_, column) => el(column ? "td" : "th", column ? {} : { scope: "row", class: "nowrap" })));
      body.append(row);
    }
    cells.forEach((cell, column) => setText(row.children[column], cell ?? ""));
  });
  while (body.children.length > rows.length) body.lastElementChild.remove();
}
