// Log files of a node: one of them followed, and a search through one or all. In the address stand file and place; before them
// `@` and the node's id, unless it is the head.
import { bytes, clock, count, make, short } from "./dom.js";
import { part } from "./stream.js";
import { Here, Table } from "./table.js";

const MOST_LETTERS = 2_000_000;
// What another node has is asked for again after so long, or so many times what the answer took.
const PAUSE_MS = 2000;
const SHARE = 10;

export const logs = {
  name: "logs",
  title: "Logs",
  sections: ["logs", "nodes"],
  begin(main, context) {
    const [, node = null, argument] = /^(?:@([0-9a-f]*)\/?)?(.*)$/s.exec(context.argument);
    Object.assign(this, { context, node: node || null, file: argument || null, next: null, isBusy: false, turn: {} });
    const place = this.node ? `@${this.node}/` : "";
    const open = (name, offset) => make("a", { href: `#/logs/${place}${encodeURIComponent(name)}${offset ? `/${offset}` : ""}` }, name);
    const columns = [
      { title: "File", cell: (row) => open(row.name), value: (row) => row.name },
      { title: "Size", cell: (row) => bytes(row.bytes), value: (row) => row.bytes, isNumber: true },
      { title: "Changed", cell: (row) => clock(row.changed_ms), value: (row) => row.changed_ms, isNumber: true, isMinor: true },
    ];
    this.files = new Table("Log files", columns, new Here(), { key: (row) => row.name, sort: 2, isDown: true, search: true });
    this.text = make("input", { type: "search", required: true, placeholder: "text" });
    this.where = make("select", {}, make("option", { value: "" }, "all files"), this.file ? make("option", { value: this.file, selected: true }, this.file) : null);
    const submit = (event) => {
      event.preventDefault();
      this.find();
    };
    const go = () => (location.hash = this.nodes.value ? `#/logs/@${this.nodes.value}/` : "#/logs");
    this.nodes = make("select", { onchange: go }, make("option", { value: "" }, "the head"));
    const form = make("form", { class: "tools", role: "search", onsubmit: submit }, make("label", {}, "Node ", this.nodes), make("label", {}, "Search ", this.text), make("label", {}, "in ", this.where), make("button", {}, "Search"));
    this.found = make("div", { "aria-live": "polite" });
    this.link = open;
    main.append(form, this.found);
    if (this.file) this.beginFile(main);
    main.append(make("h3", {}, "Files"), this.files.element);
    this.update("nodes");
    this.update("logs");
    if (this.node) this.lookThere(this.turn);
  },

  end() {
    this.turn = null;
  },

  /** Which node, for a question. */
  there(words) {
    return this.node ? { ...words, node_id: this.node } : words;
  },

  /** The stream tells of the head's files; those of another node are asked for while they are looked at. */
  async lookThere(turn) {
    while (turn === this.turn) {
      const began = performance.now();
      try {
        const { files } = document.hidden ? { files: null } : await part("files", this.there({}));
        if (files && turn === this.turn) this.list(Object.entries(files));
      } catch (error) {
        if (turn === this.turn) this.context.fail(error);
      }
      const pause = Math.max(PAUSE_MS, SHARE * (performance.now() - began));
      await new Promise((done) => setTimeout(done, pause));
    }
  },

  beginFile(main) {
    const [name, offset] = this.file.split("/");
    this.file = name;
    this.follow = make("input", { type: "checkbox", ".checked": !offset });
    this.about = make("span", { class: "soft" });
    this.output = make("pre", { tabindex: 0, "aria-label": `Contents of ${name}`, id: "log" });
    main.append(make("h3", {}, name), make("div", { class: "tools" }, make("label", {}, this.follow, " stay at the end"), this.about), this.output);
    this.read(offset ? { offset } : {});
  },

  async read(words) {
    if (this.isBusy) return;
    this.isBusy = true;
    try {
      let isMore = true;
      while (isMore) {
        const piece = await part("log", this.there({ file: this.file, ...(this.next === null ? words : { offset: this.next }) }));
        isMore = this.next !== null && piece.next < piece.bytes && piece.next > this.next;
        this.next = piece.next;
        this.output.append(piece.text);
        while (this.output.textContent.length > MOST_LETTERS && this.output.childNodes.length > 1) this.output.firstChild.remove();
        this.about.textContent = `${bytes(piece.bytes)}${piece.offset ? `, shown from byte ${count(piece.offset)} on` : ""}`;
      }
      if (this.follow.checked) this.output.scrollTop = this.output.scrollHeight;
    } catch (error) {
      this.context.fail(error);
    }
    this.isBusy = false;
  },

  async find() {
    const words = { text: this.text.value, file: this.where.value };
    this.found.replaceChildren(make("p", {}, "Searching …"));
    try {
      const { found, complete } = await part("search", this.there(words));
      const rows = found.map((line) => make("li", {}, this.link(line.file, line.offset), ` line ${line.line}: `, make("code", {}, line.text)));
      const words_ = `${count(found.length)} lines${complete ? "" : ", and there are more"}.`;
      this.found.replaceChildren(make("p", {}, words_), make("ol", {}, rows));
    } catch (error) {
      this.found.replaceChildren(make("p", { class: "trouble" }, error.message));
    }
  },

  list(rows) {
    this.files.rows.set(rows.map(([name, row]) => ({ name, ...row })));
    this.files.update();
    const size = rows.find(([name]) => name === this.file)?.[1].bytes;
    if (this.file && this.next !== null && size > this.next) this.read({});
  },

  update(section) {
    const rows = this.context.rows(section);
    if (!rows) return;
    if (section === "nodes") {
      const known = [...this.nodes.options].map((option) => option.value);
      const others = [...rows.values()].filter((row) => row.node_id && !row.is_head_node && (row.state === "ALIVE" || row.node_id === this.node));
      const missing = others.filter((row) => !known.includes(row.node_id));
      this.nodes.append(...missing.map((row) => make("option", { value: row.node_id, selected: row.node_id === this.node }, `${row.node_name} (${short(row.node_id)})`)));
    } else if (section === "logs" && !this.node) {
      this.list([...rows]);
    }
  },
};
