// The try page: puts form, run and gallery together.

import { byId, el, setText, showError } from "./elements.js";
import { GenerationForm } from "./form.js";
import { Gallery } from "./gallery.js";
import { recall, remember } from "./kept.js";
import { Run } from "./run.js";
import { callInSession } from "./session.js";
import { Submitter } from "./submit.js";

const submitter = new Submitter();
const gallery = new Gallery();
const run = new Run({ onEnd: ended });
let form = null;
let isSending = false;

function ended(state) {
  if (state?.status !== "done") remember("task", null);
  else gallery.refresh();
  showReady();
}

function showReady() {
  const isBusy = isSending || run.isBusy;
  byId("submit").disabled = form === null;
  byId("submit").setAttribute("aria-disabled", String(isBusy));
  setText(byId("submit-note"), isBusy ? "One at a time: this one is on its way." : "");
  if (isBusy) gallery.hold();
  else gallery.release();
}

async function submit(event) {
  event.preventDefault();
  if (!form || isSending || run.isBusy) return;
  showError(byId("form-error"), null);
  form.clearProblems();
  isSending = true;
  const hangUp = new AbortController();
  try {
    if (!(await form.check())) return;
    showReady();
    const task = { type: form.type };
    const body = await form.body();
    run.showSending(() => hangUp.abort());
    byId("run-title").scrollIntoView({ block: "nearest" });
    task.id = await submitter.send(body, hangUp.signal);
    remember("task", task);
    run.watch(task.id, task.type);
  } catch (error) {
    if (hangUp.signal.aborted) run.showNothing("Cancelled.");
    else refused(error);
  } finally {
    isSending = false;
    showReady();
  }
}

function refused(error) {
  run.showNothing();
  const rest = form.markProblems(error.fields ?? []);
  showError(byId("form-error"), error.fields?.length ? atFields(error, rest) : error, ...remedies(error.metadata ?? {}));
}

// What stands at its field need not be said again; what has no field here is.
function atFields(error, rest) {
  if (rest.length) return { ...error, detail: rest.map(({ field, message }) => `${field} ${message}.`).join(" ") };
  return { ...error, detail: "Some fields are not right; each says why.", userAction: "Correct the marked fields and send it again." };
}

/** What the server said would fit, to take over with one press. */
function remedies({ max_num_frames: frames, max_width: width, max_height: height }) {
  const buttons = [];
  if (frames > 0 && form.hasFrames) {
    buttons.push(el("button", { type: "button", click: () => form.setFrames(frames) }, `Use ${frames} frames`));
  }
  if (width > 0 && height > 0) {
    buttons.push(el("button", { type: "button", click: () => form.setSize({ width, height }) }, `Use ${width} × ${height}`));
  }
  return buttons;
}

async function open() {
  showError(byId("page-error"), null);
  byId("loading").hidden = false;
  try {
    const { models } = await callInSession("models");
    form = new GenerationForm(models);
    byId("fields").hidden = false;
  } catch (error) {
    showError(byId("page-error"), error, el("button", { type: "button", click: open }, "Try again"));
    return;
  } finally {
    byId("loading").hidden = true;
    showReady();
  }
  const task = recall("task");
  if (task) run.watch(task.id, task.type);
  showReady();
  await gallery.refresh();
}

byId("form").addEventListener("submit", submit);
// What is dropped beside its place must not take the page away.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
open();
