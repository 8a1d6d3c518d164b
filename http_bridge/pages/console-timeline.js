// What was resident on each lane and when it switched, read from the events of lanes: as a drawing, and as a table with the same rows.

import { el, seconds, svg } from "./elements.js";

const ROW = 34;
const LABEL = 18;
const MODELS = new Set(["anisora", "phr00t"]);

/**
 * The pieces of time of one lane, oldest first: {from, to, model, state, isSwitch}. `events` are oldest first; times in ms since 1970. What
 * was before the first event that is known is left out, unless there is none: then it is as it is now.
 */
export function piecesOf(lane, events, fromMs, nowMs) {
  const isDedicated = lane.models.length === 1;
  const pieces = [];
  let last = null;
  for (const event of events) {
    if (event.lane !== lane.lane) continue;
    const next = after(event, last, isDedicated ? lane.models[0] : null);
    if (!next) continue;
    next.from = Date.parse(event.created_at);
    if (last && last.model === next.model && last.state === next.state && !next.isSwitch) continue;
    if (last) last.to = next.from;
    pieces.push(next);
    last = next;
  }
  const now = { model: lane.resident_model, state: stateOf(lane), from: last ? last.from : fromMs };
  if (!last) pieces.push(now);
  else if (last.model !== now.model || last.state !== now.state) {
    // What is seen now is certain, and when it became so is not: no later than now.
    Object.assign(last, { model: now.model, state: now.state });
  }
  pieces[pieces.length - 1].to = nowMs;
  return pieces.filter((piece) => piece.to > fromMs && piece.to > piece.from).map((piece) => ({ ...piece, from: Math.max(piece.from, fromMs) }));
}

function after(event, last, dedicatedModel) {
  const model = last?.model ?? null;
  const state = last?.state ?? "not ready";
  switch (event.event_type) {
    case "cold_start":
      return { model: null, state: "loading" };
    case "lane_ready":
      return { model: dedicatedModel ?? model, state: "ready" };
    case "lane_not_ready":
      return { model, state: "not ready" };
    case "residency_changed":
      return { model: event.model, state, isSwitch: true, tookS: Number(event.value) || 0 };
    default:
      return null;
  }
}

function stateOf(lane) {
  if (lane.availability === "ready") return "ready";
  return lane.load ? "loading" : "not ready";
}

/** Draws the lanes' pieces into `place` and lists them in `table`. */
export function showTimeline(place, table, rows, fromMs, nowMs) {
  const width = Math.max(280, Math.floor(place.clientWidth));
  const x = (ms) => Math.round((width * (ms - fromMs)) / (nowMs - fromMs));
  const height = rows.length * (ROW + LABEL) + 24;
  const marks = ticks(fromMs, nowMs, Math.floor(width / 90)).map((ms) => [
    svg("line", { x1: x(ms), x2: x(ms), y1: 0, y2: height - 20, class: "axis" }),
    svg("text", { x: Math.min(Math.max(x(ms), 30), width - 30), y: height - 5, "text-anchor": "middle", class: "axis-label" }, clock(ms)),
  ]);
  const tracks = rows.map(({ lane, pieces }, row) => trackOf(lane, pieces, row * (ROW + LABEL), width, x));
  const drawing = svg("svg", { class: "timeline", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summaryOf(rows, nowMs - fromMs) }, marks.flat(), tracks.flat());
  place.replaceChildren(drawing);
  table.replaceChildren(tableOf(rows));
}

function trackOf(lane, pieces, top, width, x) {
  const y = top + LABEL;
  const parts = [svg("text", { x: 0, y: top + 13 }, lane.lane), svg("rect", { x: 0, y, width, height: ROW - 8, class: "track" })];
  for (const piece of pieces) {
    const left = x(piece.from);
    const size = Math.max(1, x(piece.to) - left);
    const kind = !piece.model ? (piece.state === "loading" ? "loading" : null) : `${MODELS.has(piece.model) ? piece.model : "other-model"}${piece.state === "ready" ? "" : " not-ready"}`;
    if (kind) parts.push(svg("rect", { x: left, y, width: size, height: ROW - 8, class: kind }, svg("title", {}, told(piece))));
    if (piece.isSwitch) parts.push(svg("line", { x1: left, x2: left, y1: y - 3, y2: y + ROW - 5, class: "switch" }));
    if (piece.model && size > 8 * piece.model.length + 12) {
      parts.push(svg("text", { x: left + 6, y: y + 18, class: piece.state === "ready" ? "on-model" : null }, piece.model));
    }
  }
  return parts;
}

function told(piece) {
  const took = piece.isSwitch ? `, the switch took ${piece.tookS.toFixed(1)} s` : "";
  return `${piece.model ?? "nothing"}, ${piece.state}, ${clock(piece.from)} to ${clock(piece.to)}${took}`;
}

function summaryOf(rows, spanMs) {
  const lanes = rows.map(({ lane, pieces }) => {
    const switches = pieces.filter((piece) => piece.isSwitch).length;
    const last = pieces[pieces.length - 1];
    return `${lane.lane}: ${last?.model ?? "nothing"} now, ${switches} ${switches === 1 ? "switch" : "switches"}`;
  });
  return `What was resident in the last ${seconds(spanMs / 1000)}. ${lanes.join("; ")}. The table below has the times.`;
}

function ticks(fromMs, nowMs, most) {
  const steps = [60, 120, 300, 600, 900, 1800, 3600, 7200].map((stepS) => 1000 * stepS);
  const step = steps.find((one) => (nowMs - fromMs) / one <= Math.max(2, most)) ?? steps[steps.length - 1];
  const found = [];
  for (let ms = Math.ceil(fromMs / step) * step; ms <= nowMs; ms += step) found.push(ms);
  return found;
}

function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

function tableOf(rows) {
  const lines = rows.flatMap(({ lane, pieces }) =>
    [...pieces].reverse().map((piece) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, lane.lane),
        el("td", { class: "nowrap" }, new Date(piece.from).toLocaleTimeString()),
        el("td", { class: "nowrap" }, seconds((piece.to - piece.from) / 1000)),
        el("td", {}, piece.model ?? "nothing"),
        el("td", {}, piece.isSwitch ? `${piece.state}, switched in ${piece.tookS.toFixed(1)} s` : piece.state),
      ),
    ),
  );
  const names = ["Lane", "From", "For", "Resident", "State"];
  return el("table", {}, el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, lines));
}
