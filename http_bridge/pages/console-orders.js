// What an operator may say from the console: each order is confirmed first, and what the server says to it is shown.

import { call } from "./api.js";
import { announce, byId, confirmed, showError } from "./elements.js";

/**
 * Asks, sends the order, and says what became of it. The button that was used is off meanwhile; `onRefused` hears of a session that is over.
 */
async function order(button, question, path, body, done, onRefused) {
  if (!(await confirmed({ ...question, refuse: "Leave it" }))) return;
  button.disabled = true;
  try {
    await call(path, { method: "POST", body });
    showError(byId("page-error"), null);
    announce(done);
  } catch (error) {
    if (!onRefused(error)) showError(byId("page-error"), error);
  } finally {
    button.disabled = false;
    button.focus();
  }
}

/** Drains a lane, or ends that. */
export function orderDrain(button, lane, drained, onRefused) {
  const question = drained
    ? {
        title: `Drain ${lane}?`,
        text: "It finishes what it works on and gets nothing new, also after a restart, until it is resumed. Where no other lane has its model, new requests go to the degraded pool.",
        action: "Drain",
      }
    : { title: `Resume ${lane}?`, text: "It gets work again.", action: "Resume" };
  const done = drained ? `${lane} is drained.` : `${lane} gets work again.`;
  return order(button, question, `admin/lanes/${encodeURIComponent(lane)}/drain`, { drained }, done, onRefused);
}

/** Sends a model to the degraded pool, or ends that. */
export function orderFallback(button, model, enabled, onRefused) {
  const question = enabled
    ? {
        title: `Send ${model} to the degraded pool?`,
        text: "Its own lanes finish what they work on and get nothing new. The pool is slower: it keeps one model at a time, and holds at most 25 requests for at most 30 s.",
        action: "Send to the pool",
      }
    : { title: `End the fallback of ${model}?`, text: "Its requests go to its own lanes again, where one is ready.", action: "End the fallback" };
  const done = enabled ? `${model} goes to the degraded pool.` : `The fallback of ${model} is ended.`;
  return order(button, question, `admin/models/${encodeURIComponent(model)}/fallback`, { enabled }, done, onRefused);
}
