// One task on its way: stage, place in the queue, progress and time left as the server tells them, until the video is there.

import { urlOf } from "./api.js";
import { byId, el, seconds, setText, showError } from "./elements.js";
import { callInSession } from "./session.js";
import { follow } from "./stream.js";

const POLL_MS = 3000;
const FIRST_POLL_MS = 500;
const STAGES = {
  queued: "Waiting in the queue",
  dispatch: "Handed to a worker",
  loading_pipeline: "Loading the model",
  inference: "Rendering",
  encoding: "Writing the video",
  completed: "Done",
  failed: "Failed",
};
const FALLBACKS = { capacity: "the model's own workers are away", quota: "no more GPUs may be started now", manual: "its operator sends it there" };
const FAILED_ACTIONS = {
  lane_lost: "The workers kept failing under this task. Try again; if it fails again, tell the operator.",
  gpu_memory_exceeded: "Ask for fewer frames or a smaller size.",
  render_failed: "Try again, with another seed or other pictures; if it fails again, tell the operator the id below.",
  deadline_exceeded: "Ask for fewer frames or a smaller size.",
  not_served: "No worker took it in time. Try again later.",
};

/** Shows a task. `onEnd` is told the last state: its status is `done` or `failed`; null when the task is gone. */
export class Run {
  #onEnd;
  #taskId = null;
  #end = () => {};

  constructor({ onEnd }) {
    this.#onEnd = onEnd;
    byId("cancel").addEventListener("click", () => this.#cancel());
  }

  /** Whether a task is on its way. */
  get isBusy() {
    return this.#taskId !== null;
  }

  /** Shows that a request is on its way to the server. */
  showSending() {
    this.#begin("Sending the request");
    byId("cancel").hidden = true;
  }

  /** Shows that there is no task; `text` says why. */
  showNothing(text = "It appears here when it is made.") {
    for (const id of ["run-live", "run-error", "result"]) byId(id).hidden = true;
    byId("run-empty").hidden = false;
    setText(byId("run-empty"), text);
  }

  /** Follows a task to its end. */
  watch(taskId) {
    this.#begin("Accepted");
    this.#taskId = taskId;
    byId("cancel").hidden = false;
    byId("cancel").disabled = false;
    this.#end = watched(taskId, (state) => this.#show(state));
  }

  #begin(text) {
    this.#end();
    for (const id of ["run-empty", "run-error", "result"]) byId(id).hidden = true;
    byId("run-live").hidden = false;
    byId("result").replaceChildren();
    byId("progress").value = 0;
    showStage(text);
    setText(byId("run-detail"), "");
  }

  #show(state) {
    if (state === null || state.status === "done" || state.status === "failed") {
      this.#finish(state);
      return;
    }
    showStage(stageText(state));
    byId("progress").value = state.progress;
    setText(byId("run-detail"), detailText(state));
  }

  #finish(state) {
    const taskId = this.#taskId;
    this.#end();
    this.#taskId = null;
    byId("run-live").hidden = true;
    if (state?.status === "done") showResult(taskId);
    else if (state === null) this.showNothing("The video was deleted. The next one appears here.");
    else if (state.error_code === "cancelled") this.showNothing("Cancelled. The next video appears here.");
    else showFailure(state);
    announce(state?.status === "done" ? "The video is ready." : byId("run-empty").hidden ? "" : byId("run-empty").textContent);
    this.#onEnd(state);
  }

  async #cancel() {
    const taskId = this.#taskId;
    if (!taskId) return;
    byId("cancel").disabled = true;
    showStage("Cancelling");
    try {
      await callInSession(`cancel/${taskId}`, { method: "POST" });
    } catch (error) {
      showError(byId("run-error"), error);
    } finally {
      byId("cancel").disabled = false;
    }
  }
}

/** Calls `show` with every state of the task, the last one once, null when it is gone; gives a function that ends it. */
function watched(taskId, show) {
  let isOpen = false;
  let isEnded = false;
  let timer = null;

  const stop = follow(`events/${taskId}`, {
    on: {
      status: told,
      end: ({ reason }) => {
        if (reason === "deleted") told(null);
      },
    },
    onOpen: () => {
      isOpen = true;
      clearTimeout(timer);
      timer = null;
    },
    onGone: () => {
      isOpen = false;
      timer ??= setTimeout(poll, FIRST_POLL_MS);
    },
  });

  function told(state) {
    if (isEnded) return;
    if (state === null || state.status === "done" || state.status === "failed") end();
    show(state);
  }

  // Where no stream comes through: a proxy that collects it, a session that ended, a server that starts again.
  async function poll() {
    try {
      told(await callInSession(`status/${taskId}`));
    } catch (error) {
      if (error.status === 404) told(null);
      else if (!isEnded) setText(byId("run-detail"), `${error.detail ?? error.message} Trying again.`);
    }
    timer = isEnded || isOpen ? null : setTimeout(poll, POLL_MS);
  }

  function end() {
    isEnded = true;
    clearTimeout(timer);
    stop();
  }

  return end;
}

function showStage(text) {
  setText(byId("stage"), text);
  announce(text);
}

// In an element that stays: a live region speaks of what changes in it, not of its own coming and going.
function announce(text) {
  setText(byId("announcer"), text);
}

function stageText(state) {
  const text = STAGES[state.stage] ?? state.stage;
  const ahead = state.queue_position;
  if (ahead === null || ahead === undefined) return text;
  return ahead === 0 ? `${text}, next in line` : `${text}, ${ahead} ahead`;
}

function detailText(state) {
  const parts = [`${state.progress} %`];
  if (state.stage_detail) parts.push(state.stage_detail);
  if (state.eta_seconds !== null) parts.push(`about ${seconds(state.eta_seconds)} left`);
  if (state.attempt > 1) parts.push(`attempt ${state.attempt}`);
  if (state.lane_mode === "degraded_shared") {
    parts.push(`on the shared worker${state.fallback_reason ? `: ${FALLBACKS[state.fallback_reason]}` : ""}`);
  }
  return parts.join(" · ");
}

function showResult(taskId) {
  const source = urlOf(`results/${taskId}`);
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const video = el("video", { src: source, controls: true, loop: true, playsinline: true, "aria-label": "The video" });
  // The property, too: what a script makes muted by the attribute alone is not, and then may not play by itself.
  video.muted = true;
  video.autoplay = !isStill;
  video.addEventListener("error", () => {
    const error = { detail: "The video cannot be played here.", userAction: "Download it, or reload the page and try again." };
    showError(byId("run-error"), error);
  });
  const download = el("a", { class: "button", href: source, download: "" }, "Download");
  byId("result").replaceChildren(video, el("div", { class: "row" }, download));
  byId("result").hidden = false;
}

function showFailure(state) {
  const userAction = FAILED_ACTIONS[state.error_code] ?? "Try again; if it fails again, tell the operator the id below.";
  showError(byId("run-error"), { detail: state.error, userAction, code: `${state.error_code}, task ${state.task_id}` });
}
