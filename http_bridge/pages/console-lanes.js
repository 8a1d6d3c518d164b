// Tiles of lanes: what each is and does, and its memory as a bar with the same in words. A tile is made once and changed in place.

import { bytes, el, seconds, setText, svg } from "./elements.js";
import { orderDrain } from "./console-orders.js";
import { shortId } from "./console-tables.js";

const WIDTH = 1000;
const HEIGHT = 24;
const KINDS = { ready: "good", cold: "warn", unavailable: "bad" };
const SWATCHES = [
  ["allocated", "rect", "bar-allocated"],
  ["reserved", "rect", "bar-reserved"],
  ["predicted peak", "line", "bar-predicted"],
  ["limit", "line", "bar-limit"],
];

/** Shows the lanes in this list; `onRefused` is asked about errors of orders. */
export function laneTiles(list, onRefused) {
  const tiles = new Map();
  return (lanes) => {
    for (const lane of lanes) {
      if (!tiles.has(lane.lane)) tiles.set(lane.lane, tileOf(lane.lane, onRefused));
      tiles.get(lane.lane).show(lane);
    }
    for (const [name, tile] of tiles) {
      if (!lanes.some((lane) => lane.lane === name)) {
        tile.element.remove();
        tiles.delete(name);
      }
    }
    lanes.forEach(({ lane }, place) => {
      const { element } = tiles.get(lane);
      // Moved only where it must be: an element that is moved loses the focus.
      if (list.children[place] !== element) list.insertBefore(element, list.children[place] ?? null);
    });
  };
}

function tileOf(name, onRefused) {
  const badge = el("span", { class: "badge" });
  const note = el("p", { class: "small" });
  const bar = svg("svg", { class: "bar", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const legend = el("ul", { class: "legend", "aria-hidden": "true" }, SWATCHES.map(([label, shape, kind]) => el("li", {}, swatch(shape, kind), label)));
  const memory = el("div", {}, bar, legend);
  const unmeasured = el("p", { class: "quiet small" });
  const facts = el("dl", { class: "facts" });
  const button = el("button", { type: "button" });
  const heading = el("h3", {}, name);
  const element = el("li", { class: "tile" }, el("div", { class: "row" }, heading, badge), note, memory, unmeasured, facts, el("div", { class: "row" }, button));
  let isDrained = false;
  button.addEventListener("click", () => orderDrain(button, name, !isDrained, onRefused));

  function show(lane) {
    isDrained = lane.is_drained;
    const status = lane.availability ?? "unavailable";
    setText(badge, isDrained ? `${status}, drained` : status);
    badge.className = `badge ${KINDS[status]}`;
    setText(note, noteOf(lane));
    note.hidden = !note.textContent;
    setText(button, isDrained ? "Resume" : "Drain");
    button.setAttribute("aria-label", `${isDrained ? "Resume" : "Drain"} ${name}`);
    showMemory(bar, lane);
    const isMeasured = hasFigures(lane);
    memory.hidden = !isMeasured;
    unmeasured.hidden = isMeasured;
    setText(unmeasured, lane.memory?.unmeasured_reason ? `Memory not measured: ${lane.memory.unmeasured_reason}` : "No memory was measured yet.");
    showFacts(facts, factsOf(lane));
  }

  return { element, show };
}

function swatch(shape, kind) {
  const mark = shape === "rect" ? svg("rect", { width: 14, height: 14, class: kind }) : svg("line", { x1: 7, x2: 7, y1: 0, y2: 14, class: kind });
  return svg("svg", { class: "swatch", viewBox: "0 0 14 14" }, mark);
}

function noteOf(lane) {
  const load = lane.load;
  if (load) {
    const share = load.total_bytes ? `, ${Math.floor((100 * load.read_bytes) / load.total_bytes)} % of ${bytes(load.total_bytes)}` : "";
    return `${load.model ? `${load.model}: ` : ""}${load.stage}${share}`;
  }
  if (lane.start_failure) return `${lane.start_failure.attempts} starts failed (${lane.start_failure.cause}): ${lane.start_failure.reason}`;
  if (lane.object_store_failure) return lane.object_store_failure;
  return lane.reason ?? "";
}

function hasFigures(lane) {
  const memory = lane.memory;
  return Boolean(memory) && [memory.allocated_bytes, memory.reserved_bytes, memory.predicted_peak_bytes].some((value) => value !== null);
}

function showMemory(bar, lane) {
  const { allocated_bytes: allocated = null, reserved_bytes: reserved = null, predicted_peak_bytes: predicted = null } = lane.memory ?? {};
  const limit = lane.memory_budget_bytes;
  const whole = 1.04 * Math.max(limit ?? 0, predicted ?? 0, reserved ?? 0, allocated ?? 0, 1);
  const x = (value) => Math.round((WIDTH * value) / whole);
  const parts = [svg("rect", { width: WIDTH, height: HEIGHT, class: "bar-ground" })];
  if (reserved !== null) parts.push(svg("rect", { width: x(reserved), height: HEIGHT, class: "bar-reserved" }));
  if (allocated !== null) parts.push(svg("rect", { y: 4, width: x(allocated), height: HEIGHT - 8, class: "bar-allocated" }));
  for (const [value, kind] of [[predicted, "bar-predicted"], [limit, "bar-limit"]]) {
    if (value !== null) parts.push(svg("line", { x1: x(value), x2: x(value), y1: 0, y2: HEIGHT, class: kind, "vector-effect": "non-scaling-stroke" }));
  }
  bar.setAttribute("aria-label", `Memory of ${lane.lane}: allocated ${told(allocated)}, reserved ${told(reserved)}, predicted peak ${told(predicted)}, limit ${told(limit)}`);
  bar.replaceChildren(...parts);
}

function told(value) {
  return value === null || value === undefined ? "not known" : bytes(value);
}

function factsOf(lane) {
  const memory = lane.memory;
  const facts = [
    ["Serves", `${lane.models.join(", ")} (${lane.mode === "dedicated" ? "dedicated" : "degraded pool"})`],
    ["Resident", lane.resident_model ?? "nothing"],
    ["Works on", workOf(lane.work) ?? "nothing"],
  ];
  if (lane.finishing) facts.push(["Finishes", workOf(lane.finishing)]);
  if (memory) {
    facts.push(["Allocated", told(memory.allocated_bytes)], ["Reserved", told(memory.reserved_bytes)]);
    facts.push(["Peak", `${told(memory.peak_allocated_bytes)}, predicted ${told(memory.predicted_peak_bytes)}`]);
  }
  facts.push(["Limit", told(lane.memory_budget_bytes)]);
  if (memory) facts.push(["Driver free", told(memory.driver_free_bytes)]);
  if (memory?.placement) facts.push(["Placement", memory.placement]);
  if (memory?.drift_bytes) facts.push(["Drift", bytes(memory.drift_bytes)]);
  if (memory?.out_of_memory.length) facts.push(["Ran out in", memory.out_of_memory.map((one) => `${one.phase} (${one.placement})`).join(", ")]);
  facts.push(["Device", lane.gpu ?? "not known"], ["Cold starts", String(lane.cold_start_count)]);
  if (lane.last_report_seconds === null) facts.push(["Heard", "not since admission started"]);
  else if (lane.last_report_seconds > 10) facts.push(["Heard", `${seconds(lane.last_report_seconds)} ago`]);
  return facts;
}

function workOf(work) {
  return work && `${shortId(work.task_id)}, attempt ${work.attempt}, ${work.progress} %`;
}

function showFacts(place, facts) {
  const names = facts.map(([name]) => name).join("|");
  if (place.dataset.names !== names) {
    place.dataset.names = names;
    place.replaceChildren(...facts.flatMap(([name]) => [el("dt", {}, name), el("dd")]));
  }
  facts.forEach(([, text], row) => setText(place.children[2 * row + 1], text));
}
