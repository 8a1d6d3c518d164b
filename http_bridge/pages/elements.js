// Elements of the pages, made without markup in strings: whatever comes from the server or a person becomes text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Makes an element. Attributes: a function is a listener by the event's name, true an empty attribute, false or null none;
 * `class`, `for` and the like are named as in HTML. Children are elements or text; null ones are left out.
 */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** As `el`, for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The element with this id; a page without it is broken, which is said at once. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no element with the id ${id}`);
  return element;
}

/** Sets the text only where it differs, so that a live region does not speak again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Tells a screen reader. The page has one element for it, `announcer` with the role `status`, which is always there: a live region
 * speaks of what changes in it, not of its own coming and going.
 */
export function announce(text) {
  setText(byId("announcer"), text);
}

/** What went wrong and what to do, as one box; `actions` are buttons in it. */
export function errorBox(error, ...actions) {
  const wait = error.retryAfterS ? ` (in ${seconds(error.retryAfterS)})` : "";
  return el(
    "div",
    { class: "error" },
    el("strong", {}, error.detail ?? error.message ?? "Something went wrong."),
    error.userAction ? el("p", {}, `${error.userAction}${wait}`) : null,
    error.code ? el("code", { class: "quiet" }, error.code) : null,
    actions.length ? el("div", { class: "row" }, actions) : null,
  );
}

/** Shows the error in a box of the page, which should have the role `alert`; null empties it. */
export function showError(place, error, ...actions) {
  place.replaceChildren(...(error ? [errorBox(error, ...actions)] : []));
  place.hidden = !error;
}

/** Asks before something that is not done lightly; true when the person agreed. Escape and the other button say no. */
export function confirmed({ title, text, action, refuse = "Keep" }) {
  return new Promise((resolve) => {
    const no = el("button", { type: "button", click: () => dialog.close() }, refuse);
    const yes = el("button", { type: "button", class: "danger", click: () => dialog.close("yes") }, action);
    const heading = el("h2", { id: "dialog-title" }, title);
    const content = el("div", { class: "dialog" }, heading, el("p", {}, text), el("div", { class: "row" }, no, yes));
    const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, content);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A time in words: `8 s`, `2 min 5 s`, `1 h 4 min`. */
export function seconds(value) {
  const whole = Math.max(0, Math.round(value));
  if (whole < 90) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 60)} h`;
}

/** An amount of memory: `18.4 GiB`, `512 MiB`. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let rest = value;
  let unit = 0;
  while (rest >= 1024 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${rest >= 100 || unit === 0 ? Math.round(rest) : rest.toFixed(1)} ${units[unit]}`;
}

/** How long ago a time of the server was. */
export function ago(iso) {
  const passed = (Date.now() - Date.parse(iso)) / 1000;
  if (passed < 10) return "just now";
  if (passed < 86400) return `${seconds(passed < 90 ? passed : Math.floor(passed / 60) * 60)} ago`;
  return new Date(iso).toLocaleDateString();
}
