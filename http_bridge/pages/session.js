// The generation session of this browser: opened when one is needed, and again when it has ended.

import { ApiError, call, urlOf } from "./api.js";

// The cookie itself no script can see; how long it is good is remembered beside it, so that no call is made to fail first.
const KEPT_AS = `warmlane.session:${new URL(urlOf("")).pathname}`;
const EARLY_MS = 60_000;
const ENDED = new Set(["generation_session_missing", "generation_session_expired", "generation_session_invalid", "unauthenticated"]);

let goodUntil = 0;
let opening = null;

/** As `call`, with a session. One that has ended is replaced, and the call made again. */
export async function callInSession(path, options) {
  if (Math.max(goodUntil, kept()) < Date.now() + EARLY_MS) await open();
  try {
    return await call(path, options);
  } catch (error) {
    if (!isOfSession(error)) throw error;
  }
  await open();
  try {
    return await call(path, options);
  } catch (error) {
    if (!isOfSession(error)) throw error;
    throw new ApiError({
      code: error.code,
      detail: "The browser does not keep the session of this page.",
      userAction: "Allow cookies for this page. Over plain http the server's operator must set WARMLANE_COOKIE_SECURE=false.",
      status: error.status,
    });
  }
}

function isOfSession(error) {
  return error instanceof ApiError && error.status === 401 && ENDED.has(error.code);
}

// Calls that come together share one session.
function open() {
  opening ??= call("auth/session", { method: "POST" })
    .then((session) => {
      goodUntil = Date.parse(session.expires_at);
      keep(session.expires_at);
    })
    .finally(() => {
      opening = null;
    });
  return opening;
}

function kept() {
  try {
    return Date.parse(localStorage.getItem(KEPT_AS) ?? "") || 0;
  } catch {
    return 0; // A browser that keeps nothing: the session of this page is in `goodUntil`.
  }
}

function keep(expiresAt) {
  try {
    localStorage.setItem(KEPT_AS, expiresAt);
  } catch {
    // As above.
  }
}
