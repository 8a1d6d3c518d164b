// What this tab remembers over a reload; a browser that keeps nothing forgets, and the page works all the same.

const PREFIX = "warmlane.try.";

/** The value kept under the name; null when there is none. */
export function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + name) ?? "null");
  } catch {
    return null;
  }
}

/** Keeps a value under the name; null forgets it. */
export function remember(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(PREFIX + name);
    else sessionStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Blocked or full.
  }
}
