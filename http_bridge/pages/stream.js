// Server-sent events that come back by themselves: an EventSource gives up after any answer but 200, this one does not.

import { urlOf } from "./api.js";

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 15000;

/**
 * Follows a stream. `on` has a function for each event by its name, called with the data read from JSON. `onOpen` is called when it is
 * (again) connected, `onGone` when it is not. A stream that is open again begins as the server says: without the last id where the browser
 * gave up. Gives a function that ends it; nothing is called after that.
 */
export function follow(path, { on, onOpen = () => {}, onGone = () => {} }) {
  let source = null;
  let timer = null;
  let pauseMs = FIRST_PAUSE_MS;
  let isEnded = false;

  function open() {
    source = new EventSource(urlOf(path));
    source.addEventListener("open", () => {
      pauseMs = FIRST_PAUSE_MS;
      if (!isEnded) onOpen();
    });
    source.addEventListener("error", gone);
    for (const [name, act] of Object.entries(on)) {
      source.addEventListener(name, (event) => {
        if (!isEnded) act(JSON.parse(event.data));
      });
    }
  }

  function gone() {
    if (isEnded) return;
    if (source.readyState === EventSource.CLOSED) {
      source.close();
      timer = setTimeout(open, pauseMs);
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
    }
    if (!isEnded) onGone();
  }

  open();
  return () => {
    isEnded = true;
    clearTimeout(timer);
    source.close();
  };
}
