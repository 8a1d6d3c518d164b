// Pictures that a person chooses, drops or pastes: looked at here, so that what the server would refuse is said before anything is sent.

import { announce, bytes, el, setText } from "./elements.js";
import { parameterField, title } from "./fields.js";

const MAX_BYTES = 12 * 1024 * 1024;
const MAX_PIXELS = 64_000_000;
const TYPES = ["image/png", "image/jpeg", "image/webp"];
const KINDS = "PNG, JPEG or WebP";

/** One picture. `value()` is it as a data URI, null without one; `check()` is what is wrong, "" where nothing is. */
export function pictureField(name, { id = `field-${name}`, label = title(name), hint = "" } = {}) {
  let file = null;
  let type = "";
  let shownUrl = "";
  let looking = Promise.resolve();
  const input = el("input", { type: "file", id, accept: TYPES.join(","), "aria-describedby": `${id}-hint ${id}-problem` });
  const problem = el("p", { id: `${id}-problem`, class: "problem small" });
  const note = `${hint ? `${hint} ` : ""}${KINDS}, at most ${bytes(MAX_BYTES)}. Choose it, drop it here, or paste it.`;
  const chosen = el("div", { class: "chosen", hidden: true });
  const place = el("div", { class: "picture" }, input, el("p", { id: `${id}-hint`, class: "quiet small" }, note), chosen);
  const element = el("div", { class: "field" }, el("label", { for: id }, label), place, problem);

  input.addEventListener("change", () => take(input.files[0] ?? null));
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });

  function setProblem(message) {
    setText(problem, message);
    if (message) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  }

  function take(candidate) {
    looking = look(candidate);
  }

  async function look(candidate) {
    clear();
    if (!candidate) return;
    file = candidate;
    const found = await inspected(candidate);
    if (file !== candidate) return; // Another one was chosen meanwhile.
    if (found.problem) {
      clear();
      setProblem(`${candidate.name || "The picture"} ${found.problem}`);
      return;
    }
    type = found.type;
    shownUrl = URL.createObjectURL(candidate);
    const name = candidate.name || "pasted picture";
    const remove = el("button", { type: "button", "aria-label": `Remove ${name}`, click: removed }, "Remove");
    const facts = `${name}, ${found.width} × ${found.height}, ${bytes(candidate.size)}`;
    chosen.replaceChildren(el("img", { src: shownUrl, alt: `Preview of ${name}` }), el("p", { class: "small" }, facts), remove);
    chosen.hidden = false;
    announce(`${label}: ${facts}`);
  }

  function removed() {
    clear();
    input.focus();
  }

  function clear() {
    file = null;
    input.value = "";
    setProblem("");
    chosen.hidden = true;
    chosen.replaceChildren();
    if (shownUrl) URL.revokeObjectURL(shownUrl);
    shownUrl = "";
  }

  return {
    name,
    element,
    control: input,
    setProblem,
    take,
    clear,
    isEmpty: () => file === null,
    /** Resolves when what was chosen has been looked at. */
    ready: () => looking,
    value: async () => (file ? dataUri(file, type) : null),
    check: () => (file ? "" : "Choose a picture."),
  };
}

/** What the file is: {type, width, height}, or {problem}, the end of a sentence that begins with its name. */
async function inspected(file) {
  if (file.size > MAX_BYTES) return { problem: `has ${bytes(file.size)}; at most ${bytes(MAX_BYTES)} are taken.` };
  const type = await typeOf(file);
  if (!type) return { problem: `is not a ${KINDS} picture.` };
  try {
    const picture = await createImageBitmap(new Blob([file], { type }));
    const { width, height } = picture;
    picture.close();
    if (width * height > MAX_PIXELS) return { problem: `has ${width} × ${height} pixels; at most 64 megapixels are taken.` };
    return { type, width, height };
  } catch {
    return { problem: "cannot be read as a picture; it may be damaged." };
  }
}

// By what is in it, as the server looks at it: the end of a name may say anything.
async function typeOf(file) {
  const head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  const text = String.fromCharCode(...head);
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "image/png";
  if (text.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (text.startsWith("RIFF") && text.endsWith("WEBP")) return "image/webp";
  return "";
}

function dataUri(file, type) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${file.name} cannot be read any more; choose it again.`)));
    reader.readAsDataURL(new Blob([file], { type }));
  });
}

/** Pictures at positions of the clip: a list that grows and shrinks. */
export function keyframesField(name, schema) {
  const part = schema.items.properties;
  const most = schema.maxItems ?? Infinity;
  let rows = [];
  let made = 0;
  const list = el("div", { class: "fields" });
  const problem = el("p", { class: "problem small" });
  const add = el("button", { type: "button", click: () => focusOn(append()) }, "Add a keyframe");
  const legend = el("legend", {}, "Keyframes");
  const note = el("p", { class: "quiet small" }, schema.description);
  const element = el("fieldset", {}, legend, note, list, problem, el("div", { class: "row" }, add));
  append();

  function append() {
    made += 1;
    const id = `keyframe-${made}`;
    const row = {
      picture: pictureField("image", { id: `${id}-image`, label: "Picture" }),
      frame_index: parameterField("frame_index", part.frame_index, { id: `${id}-frame`, saved: nextPosition() }),
      strength: parameterField("strength", part.strength, { id: `${id}-strength` }),
    };
    const remove = el("button", { type: "button", click: () => drop(row) }, "Remove this keyframe");
    row.remove = remove;
    row.element = el(
      "div",
      { class: "keyframe", role: "group", "aria-label": `Keyframe ${made}` },
      row.picture.element,
      el("div", { class: "pair" }, row.frame_index.element, row.strength.element),
      el("div", { class: "row" }, remove),
    );
    rows.push(row);
    list.append(row.element);
    show();
    return row;
  }

  function nextPosition() {
    const last = rows.at(-1)?.frame_index.value();
    return last === undefined ? 0 : Math.min(last + 8, part.frame_index.maximum);
  }

  function drop(row) {
    row.picture.clear();
    rows = rows.filter((other) => other !== row);
    row.element.remove();
    show();
    focusOn(rows.at(-1));
  }

  function focusOn(row) {
    row?.picture.control.focus();
  }

  function show() {
    add.disabled = rows.length >= most;
    for (const row of rows) row.remove.hidden = rows.length === 1;
    setText(problem, "");
  }

  return {
    name,
    element,
    /** What to go to when something is wrong. */
    get control() {
      return list.querySelector('[aria-invalid="true"]') ?? add;
    },
    pictures: () => rows.map((row) => row.picture),
    setProblem: (message) => setText(problem, message),
    ready: () => Promise.all(rows.map((row) => row.picture.ready())),
    /** The field that a name such as `arbitrary_frames[0].image` means. */
    find(path) {
      const match = /\[(\d+)\]\.(\w+)$/.exec(path);
      const row = match ? rows[Number(match[1])] : undefined;
      return row && (match[2] === "image" ? row.picture : row[match[2]]);
    },
    value: () =>
      Promise.all(
        rows.map(async (row) => ({
          frame_index: row.frame_index.value(),
          image: await row.picture.value(),
          strength: row.strength.value(),
        })),
      ),
    check() {
      let isWrong = false;
      for (const field of rows.flatMap((row) => [row.picture, row.frame_index, row.strength])) {
        const message = field.check();
        field.setProblem(message);
        isWrong ||= message !== "";
      }
      return isWrong ? "A keyframe is not complete." : "";
    },
  };
}
