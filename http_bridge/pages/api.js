// Calls of the API by the pages: one place for its address, for deadlines, and for what an error reply says.

// The folder above this file, whatever prefix a proxy puts before it.
const BASE = new URL("../", import.meta.url);

/** The full URL of a path of the API; the path has no slash in front. */
export function urlOf(path) {
  return new URL(path, BASE).href;
}

/** What went wrong and what to do about it, as the error envelope says it, or made here where no envelope came. */
export class ApiError extends Error {
  constructor({ code, detail, userAction, status = 0, metadata = {}, retryAfterS = null }) {
    super(detail);
    this.name = "ApiError";
    this.code = code;
    this.detail = detail;
    this.userAction = userAction;
    this.status = status;
    this.metadata = metadata;
    this.retryAfterS = retryAfterS;
  }

  /** The fields that are wrong: a list of {field, message}. */
  get fields() {
    return Array.isArray(this.metadata.fields) ? this.metadata.fields : [];
  }

  /** Whether no answer came: the request may have arrived all the same. */
  get isLost() {
    return this.status === 0;
  }
}

/**
 * Calls the API and gives what it answered, read from JSON; null where the answer has no body.
 *
 * `body` is sent as JSON. After `timeoutMs` without an answer the call is given up. Throws ApiError, or the reason of `signal`.
 */
export async function call(path, { method = "GET", body, headers = {}, timeoutMs = 20000, signal } = {}) {
  const deadline = AbortSignal.timeout(timeoutMs);
  const options = {
    method,
    headers: { ...headers },
    cache: "no-store",
    signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
  };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let reply;
  let text;
  try {
    reply = await fetch(urlOf(path), options);
    text = await reply.text();
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    throw lost(deadline.aborted, cause);
  }
  const content = parsed(text);
  if (reply.ok) {
    if (content === undefined && text) throw unreadable(reply.status);
    return content ?? null;
  }
  throw refused(reply, content);
}

function parsed(text) {
  try {
    return text ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}

function lost(isLate, cause) {
  const error = new ApiError({
    code: "unreachable",
    detail: isLate ? "The server did not answer in time." : "The server cannot be reached.",
    userAction: "Check the connection and that the server runs, then try again.",
  });
  error.cause = cause;
  return error;
}

function unreadable(status) {
  return new ApiError({
    code: "unexpected",
    detail: `The server answered ${status} with something that is not its own.`,
    userAction: "Try again; if it stays so, tell the operator: a proxy may stand in between.",
    status,
  });
}

function refused(reply, content) {
  const detail = content?.detail;
  if (typeof detail?.code !== "string") return unreadable(reply.status);
  const seconds = Number(reply.headers.get("Retry-After"));
  return new ApiError({
    code: detail.code,
    detail: detail.detail,
    userAction: detail.user_action,
    status: reply.status,
    metadata: detail.metadata ?? {},
    retryAfterS: seconds > 0 ? seconds : null,
  });
}
