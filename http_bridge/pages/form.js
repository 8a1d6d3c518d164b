// The form, made from what `/models` says: models, modes with the pictures that they need, parameters with their limits, and what is fixed.

import { byId, el } from "./elements.js";
import { parameterField, radioGroup, title } from "./fields.js";
import { recall, remember } from "./kept.js";
import { keyframesField, pictureField } from "./pictures.js";
import { firstClip, framesField, isWithoutGpu, sizeField } from "./size.js";

const MODE_TITLES = {
  t2v: ["Text", "from a sentence"],
  i2v: ["Picture", "begins with a picture"],
  first_last_frame: ["Two pictures", "from one to the other"],
  arbitrary_frame: ["Keyframes", "pictures at any position"],
  txt2img: ["Text", "from a sentence"],
  img2img: ["Picture", "from a picture"],
};
const EXAMPLES = [
  "A paper boat drifts across a quiet pond at dawn",
  "A red kite climbs over a grassy hill, clouds passing",
  "A lighthouse turns its light over a calm sea at night",
  "Rain runs down a window, city lights out of focus",
];
// With a place of their own, or none: what is fixed is shown as a list.
const PLACED = new Set(["model", "type", "mode", "prompt", "width", "height", "num_frames"]);
const IN_FRONT = new Set(["fps"]);

/** The form of the page. Its values survive a reload of the tab; the pictures do not. */
export class GenerationForm {
  #models;
  #model;
  #mode;
  #values = recall("form") ?? {};
  #fields = new Map();
  #pictures = new Map();
  #prompt = null;
  #size = null;
  #frames = null;

  constructor(models) {
    this.#models = new Map(models.filter(isOffered).map((model) => [model.id, model]));
    if (!this.#models.size) throw new Error("The server offers no model.");
    this.#model = this.#models.get(this.#values.model) ?? [...this.#models.values()][0];
    this.#showModels();
    this.#showModel();
    document.addEventListener("paste", (event) => this.#paste(event));
  }

  /** What is wrong, shown at the fields; true when nothing is. The first wrong field gets the focus. */
  async check() {
    await Promise.all([...this.#fields.values()].map((field) => field.ready?.()));
    const wrong = [];
    for (const field of this.#fields.values()) {
      const message = field.check();
      field.setProblem(message);
      if (message) wrong.push(field);
    }
    for (const [name, message] of Object.entries(this.#size?.check() ?? {})) {
      const field = this.#size.parts()[name];
      field.setProblem(message);
      if (message) wrong.push(field);
    }
    focusFirst(wrong);
    return wrong.length === 0;
  }

  /** The request. */
  async body() {
    const body = { model: this.#model.id, type: this.#model.type, mode: this.#mode, ...this.#size?.value() };
    for (const [name, field] of this.#fields) {
      const value = await field.value();
      if (value !== undefined && value !== "" && value !== null) body[name] = value;
    }
    return body;
  }

  /** Marks the fields that the server named; gives what belongs to no field of this form. */
  markProblems(problems) {
    const marked = [];
    const rest = problems.filter(({ field: path, message }) => {
      const field = this.#find(path);
      if (!field) return true;
      field.setProblem(sentence(message));
      openAround(field.element);
      marked.push(field);
      return false;
    });
    focusFirst(marked);
    return rest;
  }

  /** Takes marks away. */
  clearProblems() {
    for (const field of [...this.#fields.values(), ...Object.values(this.#size?.parts() ?? {})]) field.setProblem("");
  }

  /** Takes over what the server said would fit. */
  setFrames(frames) {
    this.#frames?.set(frames);
  }

  setSize(size) {
    this.#size?.set(size);
  }

  /** `video` or `image`. */
  get type() {
    return this.#model.type;
  }

  get hasFrames() {
    return this.#frames !== null;
  }

  #find(path) {
    const name = path.replace(/[[.].*$/, "");
    const field = this.#fields.get(name);
    return field?.find?.(path) ?? field ?? this.#size?.parts()[name];
  }

  #keep(name, value) {
    this.#values[name] = value;
    remember("form", this.#values);
  }

  // What a field keeps is of its model: 81 frames of one say nothing about the other.
  #saved(name) {
    return this.#values[`${this.#model.id}.${name}`];
  }

  #keepOf(name) {
    return (value) => this.#keep(`${this.#model.id}.${name}`, value);
  }

  #showModels() {
    const options = [...this.#models.values()].map((model) => ({ value: model.id, label: model.name, note: model.description }));
    const onChange = (id) => {
      this.#model = this.#models.get(id);
      this.#keep("model", id);
      this.#showModel();
    };
    byId("models").replaceChildren(radioGroup({ name: "model", legend: "Model", options, value: this.#model.id, onChange }));
    this.#showPrompt();
  }

  #showPrompt() {
    const onInput = (text) => this.#keep("prompt", text);
    const prompt = parameterField("prompt", this.#properties.prompt, { saved: this.#values.prompt, onInput });
    prompt.control.rows = 3;
    prompt.control.required = true;
    const examples = EXAMPLES.map((text) => el("button", { type: "button", click: () => put(text) }, text));
    const group = el("div", { class: "examples", role: "group", "aria-label": "Examples of prompts" }, examples);
    byId("prompt").replaceChildren(el("div", { class: "fields" }, prompt.element, group));
    this.#prompt = prompt;

    function put(text) {
      prompt.control.value = text;
      prompt.control.dispatchEvent(new Event("input"));
      prompt.control.focus();
    }
  }

  get #properties() {
    return this.#model.parameters_schema.properties;
  }

  #showModel() {
    byId("tiny").hidden = !isWithoutGpu(this.#model);
    const modes = this.#model.modes;
    this.#mode = modes.includes(this.#mode ?? this.#values.mode) ? (this.#mode ?? this.#values.mode) : this.#model.default_mode;
    const options = modes.map((mode) => ({ value: mode, label: MODE_TITLES[mode]?.[0] ?? title(mode), note: MODE_TITLES[mode]?.[1] }));
    const onChange = (mode) => {
      this.#mode = mode;
      this.#keep("mode", mode);
      this.#showMode();
    };
    byId("modes").replaceChildren(radioGroup({ name: "mode", legend: "Made from", options, value: this.#mode, onChange }));
    this.#showMode();
  }

  #showMode() {
    this.#fields = new Map([["prompt", this.#prompt]]);
    const pictures = neededPictures(this.#model, this.#mode);
    for (const name of pictures) this.#fields.set(name, this.#picture(name));
    byId("pictures").replaceChildren(...pictures.map((name) => this.#fields.get(name).element));
    this.#showParameters(pictures);
  }

  // Those that were chosen stay chosen when another mode or model is looked at.
  #picture(name) {
    if (!this.#pictures.has(name)) {
      const schema = this.#properties[name];
      const isList = schema?.type === "array";
      this.#pictures.set(name, isList ? keyframesField(name, schema) : pictureField(name, { hint: schema?.description }));
    }
    return this.#pictures.get(name);
  }

  #showParameters(pictures) {
    const front = [];
    const more = [];
    for (const [name, schema] of Object.entries(this.#properties)) {
      if (!isOpen(name, schema, pictures)) continue;
      const field = parameterField(name, schema, { saved: this.#saved(name), onInput: this.#keepOf(name) });
      this.#fields.set(name, field);
      (IN_FRONT.has(name) ? front : more).push(field.element);
    }
    const fixed = Object.entries(this.#model.fixed_parameters).map(([name, { value }]) => el("li", {}, `${title(name)}: ${value}`));
    const parts = this.#clip(front);
    if (fixed.length) {
      parts.push(el("div", { class: "field" }, el("p", { class: "label" }, "Fixed by the model"), el("ul", { class: "locked" }, fixed)));
    }
    if (more.length) parts.push(el("details", {}, el("summary", {}, "More settings"), el("div", { class: "fields" }, more)));
    byId("parameters").replaceChildren(...parts);
  }

  #clip(front) {
    const { width, height, num_frames: frames } = this.#properties;
    this.#size = width && height ? sizeField(this.#model, this.#saved("size"), (size) => this.#resized(size)) : null;
    this.#frames = null;
    if (frames) {
      const saved = this.#saved("num_frames") ?? firstClip(this.#model).frames;
      const fps = () => this.#fields.get("fps")?.value();
      this.#frames = framesField(frames, saved, { fps, onInput: this.#keepOf("num_frames") });
      this.#fields.set("num_frames", this.#frames);
      this.#fields.get("fps")?.control.addEventListener("input", () => this.#frames.show());
      this.#frames.limit(this.#size?.mostFrames() ?? Infinity);
    }
    const beside = [this.#frames?.element, ...front].filter(Boolean);
    return [this.#size?.element, beside.length ? el("div", { class: "pair" }, beside) : null].filter(Boolean);
  }

  #resized(size) {
    this.#keepOf("size")(size);
    this.#frames?.limit(this.#size.mostFrames());
  }

  #paste(event) {
    const file = event.clipboardData?.files[0];
    if (!file) return;
    const needed = neededPictures(this.#model, this.#mode).map((name) => this.#pictures.get(name));
    const shown = needed.flatMap((field) => field.pictures?.() ?? [field]);
    const target = shown.find((field) => field.element.contains(document.activeElement)) ?? shown.find((field) => field.isEmpty());
    if (!target) return;
    event.preventDefault();
    target.take(file);
  }
}

// Image models of another server may come without a schema of their parameters.
function isOffered(model) {
  return Boolean(model.parameters_schema?.properties?.prompt);
}

/** The picture fields that the mode requires, as the schema says it. */
function neededPictures(model, mode) {
  const rules = model.parameters_schema.allOf ?? [];
  return rules.filter((rule) => rule.if?.properties?.mode?.const === mode).flatMap((rule) => rule.then?.required ?? []);
}

function isPicture(schema) {
  return schema.type === "array" || String(schema.pattern ?? "").startsWith("^data:");
}

/** Whether a person may set it here: not fixed, used by this model, and about a picture only where that picture is asked for. */
function isOpen(name, schema, pictures) {
  if (PLACED.has(name) || isPicture(schema) || "const" in schema || schema["x-unused"]) return false;
  const of = /^(reference|first|last)_strength$/.exec(name);
  return !of || pictures.some((picture) => picture.startsWith(of[1]));
}

function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function openAround(element) {
  const details = element.closest("details");
  if (details) details.open = true;
}

function focusFirst(fields) {
  const controls = fields.map((field) => field.control);
  const inOrder = controls.toSorted((one, other) => (one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
  if (!inOrder.length) return;
  openAround(inOrder[0]);
  inOrder[0].focus();
}
