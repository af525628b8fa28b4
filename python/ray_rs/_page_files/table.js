// A table of any length: only the rows that can be seen are there. It is an ordinary table to those who hear it, with the
// number of all its rows, and scrolls by keyboard like anything that scrolls.
import { count, make } from "./dom.js";

const ROW = 34;
const MARGIN = 8;

/** Rows that are here. */
export class Here {
  constructor() {
    this.all = [];
    this.shown = [];
    this.search = "";
  }

  set(rows) {
    this.all = rows;
  }

  order(column, isDown) {
    const found = this.search ? this.all.filter((row) => this.#text(row).includes(this.search)) : [...this.all];
    if (column) {
      const value = column.value;
      found.sort((left, right) => {
        const [a, b] = [value(left) ?? "", value(right) ?? ""];
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        return isDown ? -order : order;
      });
    }
    this.shown = found;
  }

  #text(row) {
    return Object.values(row)
      .map((value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value)))
      .join(" ")
      .toLowerCase();
  }

  get length() {
    return this.shown.length;
  }

  at(index) {
    return this.shown[index];
  }

  need() {}
}

/** Rows that the service has: pages of them come as they are scrolled to. `load(offset, limit)` gives `{total, rows}`. */
export class There {
  static PAGE = 200;

  constructor(load, changed) {
    this.load = load;
    this.changed = changed;
    this.pages = new Map();
    this.length = 0;
    this.turn = 0;
  }

  /** What was asked for is something else now. */
  begin() {
    this.turn += 1;
    this.pages.clear();
    this.length = 0;
    return this.#fetch(0);
  }

  /** The same rows, as they are now. */
  again() {
    const seen = this.seen ?? [0, 0];
    this.pages = new Map([...this.pages].filter(([page]) => page >= seen[0] && page <= seen[1]));
    for (let page = seen[0]; page <= seen[1]; page += 1) this.#fetch(page);
  }

  order() {}

  at(index) {
    return this.pages.get(Math.floor(index / There.PAGE))?.[index % There.PAGE];
  }

  need(first, end) {
    const seen = [Math.floor(first / There.PAGE), Math.floor(Math.max(first, end - 1) / There.PAGE)];
    this.seen = seen;
    for (let page = seen[0]; page <= seen[1]; page += 1) {
      if (!this.pages.has(page)) {
        this.pages.set(page, []);
        this.#fetch(page);
      }
    }
  }

  async #fetch(page) {
    const { turn } = this;
    const { total, rows } = await this.load(page * There.PAGE, There.PAGE);
    if (turn !== this.turn) return;
    this.length = total;
    this.pages.set(page, rows);
    this.changed();
  }
}

/**
 * Columns: `{title, cell(row) -> Node or text, value(row), isNumber, isMinor}`; without `value` it can't be sorted by.
 * `key(row)` tells rows apart.
 */
export class Table {
  constructor(title, columns, rows, { key, sort = null, isDown = false, search = false, empty = "There are none." }) {
    Object.assign(this, { title, columns, rows, key, isDown, empty });
    this.column = sort === null ? null : columns[sort];
    this.heads = columns.map((column) => this.#head(column));
    this.caption = make("caption", {}, title);
    this.body = make("tbody");
    this.table = make("table", {}, this.caption, make("thead", {}, make("tr", {}, this.heads)), this.body);
    this.scroll = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, this.table);
    this.scroll.addEventListener("scroll", () => this.#draw(), { passive: true });
    const field = search
      ? make("input", {
          type: "search",
          placeholder: "text in any column",
          oninput: (event) => {
            this.rows.search = event.target.value.trim().toLowerCase();
            this.update();
          },
        })
      : null;
    const tools = field ? make("div", { class: "tools" }, make("label", {}, `Filter ${title.toLowerCase()} `, field)) : null;
    this.element = make("div", {}, tools, this.scroll);
    // What is above the page's fold when it is made is not known yet.
    new ResizeObserver(() => this.#draw()).observe(this.scroll);
  }

  #head(column) {
    const sortable = column.value !== undefined && this.rows instanceof Here;
    const about = { scope: "col", class: `${column.isNumber ? "number " : ""}${column.isMinor ? "minor" : ""}` };
    const press = () => {
      this.isDown = this.column === column ? !this.isDown : Boolean(column.isNumber);
      this.column = column;
      this.update();
    };
    return make("th", about, make("button", { type: "button", disabled: !sortable, onclick: press }, column.title));
  }

  /** The rows have changed. */
  update() {
    this.rows.order(this.column, this.isDown);
    this.heads.forEach((head, index) => {
      if (this.columns[index] === this.column) head.setAttribute("aria-sort", this.isDown ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    this.#draw();
  }

  #draw() {
    const { length } = this.rows;
    this.caption.textContent = `${this.title}: ${count(length)}`;
    this.table.setAttribute("aria-rowcount", length + 1);
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - MARGIN);
    const end = Math.min(length, first + Math.ceil((this.scroll.clientHeight || 600) / ROW) + 2 * MARGIN);
    this.rows.need(first, end);
    const held = this.#focus();
    const rows = [];
    if (first > 0) rows.push(this.#space(first));
    for (let index = first; index < end; index += 1) rows.push(this.#row(index));
    if (end < length) rows.push(this.#space(length - end));
    if (length === 0) {
      rows.push(make("tr", {}, make("td", { class: "empty", colspan: this.columns.length }, this.empty)));
    }
    this.body.replaceChildren(...rows);
    held?.();
  }

  /** What gives the focus back to where it is now, since rows are made anew. */
  #focus() {
    const row = document.activeElement?.closest("tr[data-key]");
    if (!row || !this.body.contains(row)) return null;
    const [key, number] = [row.dataset.key, [...row.querySelectorAll("button, a")].indexOf(document.activeElement)];
    return () => {
      const again = [...this.body.children].find((each) => each.dataset.key === key);
      (again?.querySelectorAll("button, a")[number] ?? this.scroll).focus({ preventScroll: true });
    };
  }

  #row(index) {
    const row = this.rows.at(index);
    const cells = this.columns.map((column) => {
      const about = { class: `${column.isNumber ? "number " : ""}${column.isMinor ? "minor" : ""}` };
      return make("td", about, row ? column.cell(row) : "…");
    });
    return make("tr", { "aria-rowindex": index + 2, "data-key": row ? this.key(row) : undefined }, cells);
  }

  #space(rows) {
    const space = make("tr", { class: "space", "aria-hidden": "true" });
    space.style.height = `${rows * ROW}px`;
    return space;
  }
}
