// What the service says of itself: the stream of events, and single questions.

export class Unknown extends Error {}

/** Asks the service; throws `Unknown` when this browser has not shown the key, else an Error with what it said. */
export async function ask(path, options = {}) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  if (answer.status === 401 || answer.status === 403) throw new Unknown(await answer.text());
  if (!answer.ok) throw new Error((await answer.text()) || `${answer.status} ${answer.statusText}`);
  const isJson = (answer.headers.get("content-type") ?? "").startsWith("application/json");
  return isJson ? answer.json() : answer.text();
}

export const part = (name, words) => ask(`/api/page/${name}?${new URLSearchParams(words)}`);

/** Rows of sections by key, kept up to date while the page is seen. */
export class Stream {
  #source = null;
  #wanted = "";
  #rows = new Map();

  /** `told(section)` after each change; `state(text, isBad)` when the connection changes; `refused()` without a key. */
  constructor(told, state, refused) {
    this.told = told;
    this.state = state;
    this.refused = refused;
    this.troubles = new Map();
    document.addEventListener("visibilitychange", () => this.#connect());
  }

  /** The section's rows by key; null before they are known. */
  rows(section) {
    return this.#rows.get(section) ?? null;
  }

  want(sections) {
    const wanted = [...sections].sort().join(",");
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    this.#connect();
  }

  #connect() {
    this.#source?.close();
    this.#source = null;
    if (!this.#wanted) return;
    // Nobody sees it: nothing is to be computed for it.
    if (document.hidden) return this.state("paused while hidden", false);
    const source = new EventSource(`/api/page/events?sections=${this.#wanted}`);
    this.#source = source;
    source.onopen = () => this.state("live", false);
    source.onmessage = (event) => this.#take(JSON.parse(event.data));
    source.onerror = async () => {
      this.state("not connected, trying again", true);
      // Only a refusal closes it for good; the browser tries everything else again.
      if (source.readyState !== EventSource.CLOSED || source !== this.#source) return;
      try {
        await ask("/api/version");
        setTimeout(() => source === this.#source && this.#connect(), 3000);
      } catch (error) {
        if (error instanceof Unknown) this.refused(error.message);
        else setTimeout(() => source === this.#source && this.#connect(), 3000);
      }
    };
  }

  #take(news) {
    const { section } = news;
    if (news.trouble !== undefined) {
      this.troubles.set(section, news.trouble);
      return this.told(section);
    }
    this.troubles.delete(section);
    const rows = news.all ? new Map() : (this.#rows.get(section) ?? new Map());
    for (const key of news.gone) rows.delete(key);
    for (const [key, row] of Object.entries(news.set)) rows.set(key, row);
    this.#rows.set(section, rows);
    this.told(section);
  }
}
