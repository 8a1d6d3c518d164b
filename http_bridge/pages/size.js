// Size and length of the clip: the sizes that the server names with what fits on its GPUs, or any other; a slider for the frames.

import { el, setText } from "./elements.js";
import { framed, parameterField } from "./fields.js";

const OTHER = "other";
// 8k+1 frames: every model can make these exactly.
const FRAME_STEP = 8;
const SMALL_FRAMES = 17;
const USUAL_FRAMES = 81;

/** What a first clip should be: of seconds on a machine without a GPU, of the smallest usual size on one with. */
export function firstClip(model) {
  const properties = model.parameters_schema.properties;
  const sizes = fitting(model);
  if (isWithoutGpu(model)) return { width: properties.width.minimum, height: properties.height.minimum, frames: SMALL_FRAMES };
  const smallest = sizes.toSorted((one, other) => one.width * one.height - other.width * other.height)[0];
  const frames = properties.num_frames?.default ?? USUAL_FRAMES;
  if (!smallest) return { width: properties.width.default ?? 512, height: properties.height.default ?? 512, frames };
  return { width: smallest.width, height: smallest.height, frames: Math.min(frames, steps(smallest.max_num_frames)) };
}

/** Whether the model is rendered without a GPU: then a tiny stand-in with random weights does it. */
export function isWithoutGpu(model) {
  const gpus = model.limits?.gpus ?? [];
  return gpus.length > 0 && gpus.every((gpu) => gpu === "cpu");
}

function fitting(model) {
  return (model.limits?.sizes ?? []).filter((size) => size.max_num_frames > 0);
}

function steps(frames) {
  return Math.max(1, Math.floor((frames - 1) / FRAME_STEP) * FRAME_STEP + 1);
}

/** The choice of a size. `saved` is {width, height}; `onChange` is told of every change. */
export function sizeField(model, saved, onChange) {
  const properties = model.parameters_schema.properties;
  const first = firstClip(model);
  const offered = offeredSizes(model, first);
  const begin = saved ?? first;
  const isOffered = offered.some((size) => isSame(size, begin) && size.max_num_frames !== 0);
  const select = el(
    "select",
    {},
    offered.map((size) => el("option", { value: keyOf(size), disabled: size.max_num_frames === 0 }, nameOf(size))),
    el("option", { value: OTHER }, "Another size"),
  );
  select.value = isOffered ? keyOf(begin) : OTHER;
  const field = framed({ id: "field-size", label: "Size", control: select });
  const width = parameterField("width", properties.width, { saved: begin.width, onInput: changed });
  const height = parameterField("height", properties.height, { saved: begin.height, onInput: changed });
  const other = el("div", { class: "pair", hidden: isOffered }, width.element, height.element);
  select.addEventListener("input", () => {
    field.setProblem("");
    other.hidden = select.value !== OTHER;
    const chosen = offered.find((size) => keyOf(size) === select.value);
    if (chosen) put(chosen);
    changed();
  });

  function put(size) {
    width.control.value = size.width;
    height.control.value = size.height;
  }

  function changed() {
    onChange({ width: width.value(), height: height.value() });
  }

  return {
    element: el("div", { class: "fields" }, field.element, other),
    value: () => ({ width: width.value(), height: height.value() }),
    set(size) {
      put(size);
      const known = offered.find((one) => isSame(one, size));
      select.value = known ? keyOf(known) : OTHER;
      other.hidden = Boolean(known);
      changed();
    },
    /** Longest clip of this size, as far as it is known. */
    mostFrames: () => offered.find((size) => isSame(size, { width: width.value(), height: height.value() }))?.max_num_frames ?? Infinity,
    /** The fields by their names, for what is wrong: with a size of the list, the list is wrong. */
    parts: () => (select.value === OTHER ? { width, height } : { width: field, height: field }),
    check: () => (select.value === OTHER ? { width: width.check(), height: height.check() } : {}),
  };
}

function offeredSizes(model, first) {
  const sizes = model.limits?.sizes ?? [];
  const isNamed = sizes.some((size) => isSame(size, first));
  return [...(isNamed ? [] : [first]), ...sizes];
}

function isSame(one, other) {
  return one.width === other.width && one.height === other.height;
}

function keyOf(size) {
  return `${size.width}x${size.height}`;
}

function nameOf(size) {
  const shape = size.width === size.height ? "square" : size.width < size.height ? "portrait" : "landscape";
  const limit =
    size.max_num_frames === 0 ? ", does not fit" : size.max_num_frames ? `, up to ${size.max_num_frames} frames` : "";
  return `${size.width} × ${size.height}, ${shape}${limit}`;
}

/** The slider of the frames; `fps` tells the time that they make. */
export function framesField(schema, saved, { fps, onInput }) {
  const control = el("input", { type: "range", min: schema.minimum, step: FRAME_STEP });
  // The slider itself says the same by aria-valuetext.
  const shown = el("span", { class: "small", "aria-hidden": "true" });
  const field = framed({ id: "field-num_frames", label: "Length", control, hint: "" });
  control.after(shown);

  function show() {
    const frames = Number(control.value);
    const rate = fps() || 16;
    const text = `${frames} ${frames === 1 ? "frame" : "frames"}, ${(frames / rate).toFixed(1)} s`;
    setText(shown, text);
    control.setAttribute("aria-valuetext", text);
  }

  function limit(most) {
    const wanted = Number(control.value || saved);
    control.max = steps(Math.min(schema.maximum, most));
    control.value = Math.min(wanted, Number(control.max));
    show();
  }

  control.max = schema.maximum;
  control.value = saved;
  control.addEventListener("input", () => {
    field.setProblem("");
    show();
    onInput(Number(control.value));
  });
  show();
  return {
    ...field,
    name: "num_frames",
    value: () => Number(control.value),
    check: () => "",
    set(frames) {
      control.value = frames;
      control.dispatchEvent(new Event("input"));
    },
    limit,
    show,
  };
}
