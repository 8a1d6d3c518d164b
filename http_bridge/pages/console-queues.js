// Tiles of queues: depth against its limit and waits against theirs, as bars with the same in words; and the switch of the fallback.

import { el, seconds, setText, svg } from "./elements.js";
import { orderFallback } from "./console-orders.js";

const WIDTH = 1000;

/** Shows the models' queues and the degraded one in this list. */
export function queueTiles(list, onRefused) {
  const tiles = new Map();
  const room = roomTile();
  return (queues, degraded, passedS) => {
    for (const queue of queues) {
      if (!tiles.has(queue.model)) {
        tiles.set(queue.model, modelTile(queue.model, onRefused));
        list.append(tiles.get(queue.model).element);
      }
      tiles.get(queue.model).show(queue, passedS);
    }
    room.show(degraded);
    if (list.lastElementChild !== room.element) list.append(room.element);
  };
}

function modelTile(model, onRefused) {
  const badge = el("span", { class: "badge" });
  const depth = gauge();
  const facts = el("p", { class: "small" });
  const button = el("button", { type: "button" });
  const element = el("li", { class: "tile" }, el("div", { class: "row" }, el("h3", {}, model), badge), depth.element, facts, el("div", { class: "row" }, button));
  let isManual = false;
  button.addEventListener("click", () => orderFallback(button, model, !isManual, onRefused));

  function show(queue, passedS) {
    isManual = queue.is_manual_fallback;
    const reason = queue.fallback_reason;
    setText(badge, !queue.is_served ? "not served" : reason ? `fallback: ${reason}` : "its own lanes");
    badge.className = `badge ${!queue.is_served ? "bad" : reason ? "warn" : "good"}`;
    depth.show("Waiting", queue.depth, queue.max_depth, `${queue.depth} of ${queue.max_depth}`);
    const wait = queue.predicted_wait_seconds === null ? "nothing measured yet" : seconds(queue.predicted_wait_seconds);
    const since = queue.fallback_seconds === null ? "" : ` In fallback for ${seconds(queue.fallback_seconds + passedS)}.`;
    const quota = queue.quota_denied_until ? ` Quota denied until ${new Date(queue.quota_denied_until).toLocaleTimeString()}.` : "";
    setText(facts, `${queue.running} running. Predicted wait: ${wait}.${since}${quota}`);
    setText(button, isManual ? "End the fallback" : "Send to the pool");
    button.setAttribute("aria-label", isManual ? `End the fallback of ${model}` : `Send to the pool: ${model}`);
  }

  return { element, show };
}

function roomTile() {
  const badge = el("span", { class: "badge" });
  const depth = gauge();
  const wait = gauge();
  const facts = el("p", { class: "small" });
  const element = el("li", { class: "tile" }, el("div", { class: "row" }, el("h3", {}, "Degraded pool"), badge), depth.element, wait.element, facts);

  function show(room) {
    const isFull = room.max_depth > 0 && room.depth >= room.max_depth;
    setText(badge, isFull ? "full" : "open");
    badge.className = `badge ${isFull ? "bad" : "good"}`;
    depth.show("Waiting", room.depth, room.max_depth, `${room.depth} of ${room.max_depth}`);
    const oldestS = room.held ? (room.oldest_wait_seconds ?? 0) : 0;
    wait.show("Oldest wait", oldestS, room.max_wait_seconds, `${oldestS.toFixed(0)} of ${room.max_wait_seconds.toFixed(0)} s`);
    setText(facts, `${room.held} held requests, ${room.rescued} rescued tasks.`);
  }

  return { element, show };
}

/** A bar of a value against its limit, with both in words beside it; the words are what a screen reader reads. */
function gauge() {
  const fill = svg("rect", { height: 10, class: "bar-fill" });
  const bar = svg("svg", { class: "bar", viewBox: `0 0 ${WIDTH} 10`, preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: WIDTH, height: 10, class: "bar-ground" }), fill);
  const words = el("p", { class: "small" });
  const element = el("div", {}, words, bar);

  function show(name, value, limit, text) {
    setText(words, `${name}: ${text}`);
    const share = limit > 0 ? Math.min(1, value / limit) : 0;
    fill.setAttribute("width", String(Math.round(WIDTH * share)));
    fill.setAttribute("class", share > 0.8 ? "bar-fill over" : "bar-fill");
  }

  return { element, show };
}
