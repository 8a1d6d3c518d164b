// One task on its way: stage, place in the queue, progress and time left as the server tells them, until the video is there.

import { urlOf } from "./api.js";
import { announce, byId, el, seconds, setText, showError } from "./elements.js";
import { callInSession } from "./session.js";
import { follow } from "./stream.js";

// Beside the stream the task is asked for: at once when the stream is gone, and where one that is open says nothing for long, as behind a
// proxy that collects what it passes on.
const GONE_MS = 500;
const POLL_MS = 3000;
const QUIET_MS = 10_000;
// A request that is not answered by then waits for a worker.
const HELD_MS = 1500;
const STAGES = {
  queued: "Waiting in the queue",
  dispatch: "Handed to a worker",
  loading_pipeline: "Loading the model",
  inference: "Rendering",
  encoding: "Writing the video",
  completed: "Done",
  failed: "Failed",
};
const FALLBACKS = {
  capacity: "the model's own workers are away",
  quota: "no more GPUs may be started now",
  manual: "its operator sends it there",
};
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
  #type = "video";
  #end = () => {};
  #hangUp = null;

  constructor({ onEnd }) {
    this.#onEnd = onEnd;
    byId("cancel").addEventListener("click", () => this.#cancel());
  }

  /** Whether a task is on its way. */
  get isBusy() {
    return this.#taskId !== null;
  }

  /** Shows that a request is on its way to the server; cancelling it calls `hangUp`. */
  showSending(hangUp) {
    this.#begin("Sending the request");
    this.#hangUp = hangUp;
    const timer = setTimeout(() => showStage("Waiting for a free worker"), HELD_MS);
    this.#end = () => clearTimeout(timer);
  }

  /** Shows that there is no task; `reason` says why, if there was one. */
  showNothing(reason = "") {
    this.#end();
    for (const id of ["run-live", "run-error", "result"]) byId(id).hidden = true;
    byId("run-empty").hidden = false;
    setText(byId("run-empty"), reason ? `${reason} The next video appears here.` : "It appears here when it is made.");
    announce(reason);
  }

  /** Follows a task to its end. `type` is what it makes: `video` or `image`. */
  watch(taskId, type) {
    this.#begin("Accepted");
    this.#taskId = taskId;
    this.#type = type;
    this.#end = watched(taskId, (state) => this.#show(state));
  }

  #begin(text) {
    this.#end();
    for (const id of ["run-empty", "run-error", "result"]) byId(id).hidden = true;
    byId("run-live").hidden = false;
    byId("result").replaceChildren();
    byId("progress").value = 0;
    byId("cancel").disabled = false;
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
    if (state === null) this.showNothing("The video was deleted.");
    else if (state.status === "done") showResult(taskId, this.#type);
    else if (state.error_code === "cancelled") this.showNothing("Cancelled.");
    else showFailure(state);
    this.#onEnd(state);
  }

  async #cancel() {
    const taskId = this.#taskId;
    if (!taskId) {
      this.#hangUp?.();
      return;
    }
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
  let isAsking = false;
  let timer = null;

  function askIn(ms) {
    clearTimeout(timer);
    timer = isEnded ? null : setTimeout(ask, ms);
  }

  function told(state) {
    if (isEnded) return;
    if (state === null || state.status === "done" || state.status === "failed") end();
    else askIn(isOpen ? QUIET_MS : POLL_MS);
    show(state);
  }

  async function ask() {
    if (isAsking) return;
    isAsking = true;
    try {
      told(await callInSession(`status/${taskId}`));
    } catch (error) {
      if (error.status === 404) told(null);
      else if (!isEnded) setText(byId("run-detail"), `${error.detail ?? error.message} Trying again.`);
    } finally {
      isAsking = false;
      askIn(isOpen ? QUIET_MS : POLL_MS);
    }
  }

  const stop = follow(`events/${taskId}`, {
    on: {
      status: told,
      end: ({ reason }) => {
        if (reason === "deleted") told(null);
      },
    },
    onOpen: () => {
      isOpen = true;
    },
    onGone: () => {
      isOpen = false;
      askIn(GONE_MS);
    },
  });
  askIn(QUIET_MS);

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

function showResult(taskId, type) {
  const source = urlOf(`results/${taskId}`);
  const shown = type === "video" ? videoOf(source) : el("img", { src: source, alt: "The image" });
  shown.addEventListener("error", () => {
    const error = { detail: `The ${type} cannot be shown here.`, userAction: "Download it, or reload the page and try again." };
    showError(byId("run-error"), error);
  });
  const download = el("a", { class: "button", href: source, download: "" }, "Download");
  byId("result").replaceChildren(shown, el("div", { class: "row" }, download));
  byId("result").hidden = false;
  announce(`The ${type} is ready.`);
}

function videoOf(source) {
  const video = el("video", { src: source, controls: true, loop: true, playsinline: true, "aria-label": "The video" });
  // The property, too: what a script makes muted by the attribute alone is not, and then may not play by itself.
  video.muted = true;
  video.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  return video;
}

function showFailure(state) {
  const userAction = FAILED_ACTIONS[state.error_code] ?? "Try again; if it fails again, tell the operator the id below.";
  showError(byId("run-error"), { detail: state.error, userAction, code: `${state.error_code}, task ${state.task_id}` });
}
