// Log files: one of them followed, and a search through one or all.
import { bytes, clock, count, make } from "./dom.js";
import { part } from "./stream.js";
import { Here, Table } from "./table.js";

const MOST_LETTERS = 2_000_000;

export const logs = {
  name: "logs",
  title: "Logs",
  sections: ["logs"],
  begin(main, context) {
    Object.assign(this, { context, file: context.argument || null, next: null, isBusy: false });
    const open = (name, offset) => make("a", { href: `#/logs/${encodeURIComponent(name)}${offset ? `/${offset}` : ""}` }, name);
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
    const form = make("form", { class: "tools", role: "search", onsubmit: submit }, make("label", {}, "Search ", this.text), make("label", {}, "in ", this.where), make("button", {}, "Search"));
    this.found = make("div", { "aria-live": "polite" });
    this.link = open;
    main.append(form, this.found);
    if (this.file) this.beginFile(main);
    main.append(make("h3", {}, "Files"), this.files.element);
    this.update("logs");
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
        const piece = await part("log", { file: this.file, ...(this.next === null ? words : { offset: this.next }) });
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
      const { found, complete } = await part("search", words);
      const rows = found.map((line) => make("li", {}, this.link(line.file, line.offset), ` line ${line.line}: `, make("code", {}, line.text)));
      const words_ = `${count(found.length)} lines${complete ? "" : ", and there are more"}.`;
      this.found.replaceChildren(make("p", {}, words_), make("ol", {}, rows));
    } catch (error) {
      this.found.replaceChildren(make("p", { class: "trouble" }, error.message));
    }
  },

  update(section) {
    const rows = this.context.rows("logs");
    if (section !== "logs" || !rows) return;
    this.files.rows.set([...rows].map(([name, row]) => ({ name, ...row })));
    this.files.update();
    const size = rows.get(this.file)?.bytes;
    if (this.file && this.next !== null && size > this.next) this.read({});
  },
};
