// Sends a request so that it makes one task, however often it is sent: after a lost reply the same key goes with the same body.

import { ApiError } from "./api.js";
import { callInSession } from "./session.js";

// A request that no worker can take at once is held for 30 s; pictures take their time on a phone.
const TIMEOUT_MS = 120_000;
const PAUSES_MS = [1000, 3000];
// What a server takes unless it was told otherwise. It would hang up on more, which looks like a lost reply.
const MAX_BODY_BYTES = 64 * 1024 * 1024;

export class Submitter {
  #sent = null;

  /** The id of the task. Throws ApiError, or the reason of `signal`: hanging up gives the place of a request that waits back. */
  async send(body, signal) {
    const text = JSON.stringify(body);
    if (text.length > MAX_BODY_BYTES) throw tooLarge();
    if (this.#sent?.text !== text) this.#sent = { text, key: newKey() };
    const { key } = this.#sent;
    try {
      const reply = await this.#sendOften(body, key, signal);
      this.#sent = null;
      return reply.task_id;
    } catch (error) {
      // Refused, and so no task. Without an answer, or with one that says only "not now", there may be one: the key stays.
      if (error instanceof ApiError && error.status >= 400 && error.status < 500) this.#sent = null;
      throw error;
    }
  }

  async #sendOften(body, key, signal) {
    for (const pauseMs of [...PAUSES_MS, null]) {
      try {
        const headers = { "Idempotency-Key": key };
        return await callInSession("generate", { method: "POST", body, headers, timeoutMs: TIMEOUT_MS, signal });
      } catch (error) {
        if (!(error instanceof ApiError) || !error.isLost || pauseMs === null) throw error;
        await new Promise((resolve) => {
          setTimeout(resolve, pauseMs);
        });
      }
    }
    throw new Error("unreachable: the last try returns or throws");
  }
}

function tooLarge() {
  const detail = "The pictures are too large together.";
  return new ApiError({ code: "payload_too_large", detail, userAction: "Choose smaller or fewer pictures.", status: 413 });
}

// Not randomUUID: browsers have it on https and on this machine only.
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
