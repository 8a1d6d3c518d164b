// Fields of a form, made from the JSON Schema of a parameter: a label, a control with its limits, a hint, and a place for what is wrong.

import { el, setText } from "./elements.js";

const SHORT = { fps: "FPS" };

/** `motion_score` as people read it: `Motion score`. */
export function title(name) {
  if (SHORT[name]) return SHORT[name];
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The places of a field around its control: `element` shows it, `setProblem` says what is wrong, or with "" that nothing is. */
export function framed({ id, label, control, hint = "" }) {
  const problem = el("p", { id: `${id}-problem`, class: "problem small" });
  const note = hint ? el("p", { id: `${id}-hint`, class: "quiet small" }, hint) : null;
  control.id = id;
  control.setAttribute("aria-describedby", [note?.id, problem.id].filter(Boolean).join(" "));
  const element = el("div", { class: "field" }, el("label", { for: id }, label), control, note, problem);
  return {
    element,
    control,
    setProblem(message) {
      setText(problem, message);
      if (message) control.setAttribute("aria-invalid", "true");
      else control.removeAttribute("aria-invalid");
    },
  };
}

/**
 * The field of a parameter: `value()` is what to send, undefined where the person left it empty; `check()` is what is wrong with it, ""
 * where nothing is. `saved` is a value to begin with; `onInput` is told the new one.
 */
export function parameterField(name, schema, { id = `field-${name}`, saved, onInput = () => {} } = {}) {
  const make = Array.isArray(schema.enum) ? choiceControl : schema.type === "string" ? textControl : numberControl;
  const { control, value, check } = make(schema, saved ?? schema.default);
  const field = framed({ id, label: title(name), control, hint: hintOf(schema) });
  control.addEventListener("input", () => {
    field.setProblem("");
    onInput(value());
  });
  return { name, ...field, value, check };
}

function hintOf(schema) {
  const isNumber = schema.type === "integer" || schema.type === "number";
  const range = isNumber && schema.minimum !== undefined && schema.maximum !== undefined ? `${schema.minimum} to ${schema.maximum}.` : "";
  return [schema.description, range].filter(Boolean).join(" ");
}

function choiceControl(schema, begin) {
  const options = schema.enum.map((value) => el("option", { value, selected: value === begin }, title(String(value))));
  const control = el("select", {}, options);
  return { control, value: () => control.value, check: () => "" };
}

function textControl(schema, begin) {
  const control = el("textarea", { maxlength: schema.maxLength, rows: 2 });
  control.value = begin ?? "";
  const check = () => (schema.minLength && !control.value.trim() ? "Write something here." : "");
  return { control, value: () => control.value, check };
}

function numberControl(schema, begin) {
  const step = schema.type === "integer" ? 1 : "any";
  const control = el("input", { type: "number", min: schema.minimum, max: schema.maximum, step, inputmode: step === 1 ? null : "decimal" });
  control.value = begin ?? "";
  const value = () => (control.value === "" ? undefined : Number(control.value));
  const check = () => {
    const { badInput, rangeUnderflow, rangeOverflow, stepMismatch } = control.validity;
    if (badInput) return "Write a number.";
    if (stepMismatch) return "Write a whole number.";
    return rangeUnderflow || rangeOverflow ? `Write a number from ${schema.minimum} to ${schema.maximum}.` : "";
  };
  return { control, value, check };
}

/** A choice of one of a few, as radio buttons: `options` are {value, label, note}. */
export function radioGroup({ name, legend, options, value, onChange }) {
  const choices = options.map((option) => {
    const id = `${name}-${option.value}`;
    const labelled = { "aria-labelledby": `${id}-label`, "aria-describedby": option.note ? `${id}-note` : null };
    const input = el("input", { type: "radio", name, value: option.value, checked: option.value === value, ...labelled });
    input.addEventListener("change", () => onChange(option.value));
    const note = option.note ? el("small", { id: `${id}-note` }, option.note) : null;
    return el("label", { class: "choice" }, input, el("span", { id: `${id}-label` }, option.label), note);
  });
  return el("fieldset", {}, el("legend", {}, legend), el("div", { class: "choices" }, choices));
}
