// The last videos: pages of the gallery, played in place, deleted after a question.

import { urlOf } from "./api.js";
import { ago, announce, byId, confirmed, el, setText, showError } from "./elements.js";
import { callInSession } from "./session.js";

const PER_PAGE = 8;
// Who only passes by on the way to the button need not wait for pictures.
const LOOKED_AT_MS = 700;
const RELEASED_MS = 1500;

/** The list below the form. */
export class Gallery {
  #shown = new Map();
  #page = 0;
  // A preview is fetched when somebody looks at it, and not while a video is on its way: the first video comes first.
  #seen = new IntersectionObserver((entries) => this.#look(entries));
  #looks = new Map();
  #waiting = null;
  #releasing = null;

  constructor() {
    byId("more").addEventListener("click", () => this.#more());
  }

  /** Fetches no previews until `release`. */
  hold() {
    clearTimeout(this.#releasing);
    this.#waiting ??= new Set();
  }

  /** Fetches those that were looked at meanwhile, a moment later: what was waited for is fetched before them. */
  release() {
    clearTimeout(this.#releasing);
    this.#releasing = setTimeout(() => {
      const waiting = this.#waiting ?? [];
      this.#waiting = null;
      for (const picture of waiting) this.#fetch(picture);
    }, RELEASED_MS);
  }

  /** Shows what is new at the top. */
  async refresh() {
    const reply = await this.#read(1);
    if (!reply) return;
    const isFirst = this.#page === 0;
    this.#page = Math.max(1, this.#page);
    this.#put(reply.items, { atTop: true });
    if (isFirst) byId("more").hidden = !reply.has_more;
    this.#note();
  }

  async #more() {
    byId("more").disabled = true;
    const reply = await this.#read(this.#page + 1);
    byId("more").disabled = false;
    if (!reply) return;
    this.#page += 1;
    const first = this.#put(reply.items, { atTop: false });
    byId("more").hidden = !reply.has_more;
    first?.querySelector("button")?.focus();
  }

  async #read(page) {
    try {
      const reply = await callInSession(`gallery?page=${page}&per_page=${PER_PAGE}`);
      showError(byId("gallery-error"), null);
      return reply;
    } catch (error) {
      showError(byId("gallery-error"), error, el("button", { type: "button", click: () => this.refresh() }, "Try again"));
      return null;
    }
  }

  // A list that grew meanwhile shows items again on its next page: each is shown once.
  #put(items, { atTop }) {
    const fresh = items.filter((item) => !this.#shown.has(item.id));
    const cards = fresh.map((item) => this.#card(item));
    byId("gallery-items")[atTop ? "prepend" : "append"](...cards);
    fresh.forEach((item, index) => this.#shown.set(item.id, cards[index]));
    return cards[0];
  }

  #note() {
    setText(byId("gallery-note"), this.#shown.size ? "" : "There are none yet.");
    byId("gallery-note").hidden = this.#shown.size > 0;
  }

  #card(item) {
    const source = urlOf(`results/${item.id}`);
    const what = item.prompt || "without a prompt";
    const picture = el("img", { alt: "", "data-src": urlOf(`preview/${item.id}`), width: item.width, height: item.height });
    if (item.preview_url) this.#seen.observe(picture);
    const isVideo = item.type === "video";
    const sign = el("span", { class: "sign small", "aria-hidden": "true" }, isVideo ? "Play" : "Show");
    const play = el("button", { type: "button", class: "play", "aria-label": `${isVideo ? "Play" : "Show"}: ${what}` }, picture, sign);
    play.addEventListener("click", () => showInPlace(play, source, isVideo, what));
    const frames = item.parameters?.num_frames;
    const facts = [item.model, `${item.width} × ${item.height}`, frames ? `${frames} frames` : "", ago(item.created_at)];
    return el(
      "li",
      {},
      play,
      el("p", { class: "prompt" }, item.prompt),
      el("p", { class: "quiet small" }, facts.filter(Boolean).join(" · ")),
      el(
        "div",
        { class: "row" },
        el("a", { class: "button", href: source, download: "", "aria-label": `Download: ${what}` }, "Download"),
        el("button", { type: "button", class: "danger", "aria-label": `Delete: ${what}`, click: () => this.#delete(item) }, "Delete"),
      ),
    );
  }

  async #delete(item) {
    const text = `“${item.prompt.slice(0, 120)}” and its file are gone then, for everyone who sees it.`;
    if (!(await confirmed({ title: "Delete this video?", text, action: "Delete" }))) return;
    try {
      await callInSession(`gallery/${item.id}`, { method: "DELETE" });
    } catch (error) {
      // Somebody else was faster: it is gone, as it should be.
      if (error.status !== 404) {
        showError(byId("gallery-error"), error);
        return;
      }
    }
    const card = this.#shown.get(item.id);
    const next = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    this.#shown.delete(item.id);
    this.#note();
    announce("The video is deleted.");
    (next?.querySelector("button, video") ?? byId("gallery-title")).focus();
    showError(byId("gallery-error"), null);
    // The pages moved up by one: what came to the end of those that were read is fetched.
    if (!byId("more").hidden) this.#fill();
  }

  async #fill() {
    const reply = await this.#read(this.#page);
    if (!reply) return;
    this.#put(reply.items, { atTop: false });
    byId("more").hidden = !reply.has_more;
  }

  #look(entries) {
    for (const { isIntersecting, target } of entries) {
      clearTimeout(this.#looks.get(target));
      this.#looks.delete(target);
      if (isIntersecting) this.#looks.set(target, setTimeout(() => this.#fetch(target), LOOKED_AT_MS));
    }
  }

  #fetch(picture) {
    this.#looks.delete(picture);
    if (this.#waiting) {
      this.#waiting.add(picture);
      return;
    }
    this.#seen.unobserve(picture);
    picture.src = picture.dataset.src;
  }
}

function showInPlace(button, source, isVideo, what) {
  if (!isVideo) {
    button.replaceWith(el("img", { src: source, alt: what }));
    return;
  }
  const video = el("video", { src: source, controls: true, loop: true, playsinline: true, "aria-label": what });
  video.muted = true;
  button.replaceWith(video);
  video.focus();
  // Refused where the browser may not play; the controls are there.
  video.play().catch(() => {});
}
