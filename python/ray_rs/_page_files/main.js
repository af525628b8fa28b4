// Which view is shown, and who is let in.
import { make } from "./dom.js";
import { logs } from "./logs.js";
import { ask, Stream, Unknown } from "./stream.js";
import { tasks } from "./tasks.js";
import { timeline } from "./timeline.js";
import { actors, groups, jobs, objects, overview, workers } from "./views.js";

const VIEWS = [overview, tasks, timeline, actors, workers, objects, groups, jobs, logs];

const main = document.getElementById("main");
const live = document.getElementById("live");
const links = document.getElementById("views");
let view = null;

const stream = new Stream(
  (section) => {
    const trouble = stream.troubles.get(section);
    if (trouble !== undefined) fail(new Error(trouble));
    else view?.update(section);
  },
  (text, isBad) => {
    live.textContent = text;
    live.className = isBad ? "bad" : "";
  },
  (why) => askForKey(why),
);

function fail(error) {
  if (error instanceof Unknown) return askForKey(error.message);
  live.textContent = error.message.split("\n")[0];
  live.className = "bad";
}

function route() {
  const [, name, ...rest] = location.hash.split("/");
  const next = VIEWS.find((each) => each.name === name) ?? overview;
  view?.end?.();
  view = null;
  document.title = `${next.title} · ray_rs`;
  for (const link of links.querySelectorAll("a")) {
    if (link.hash === `#/${next.name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = make("h2", { tabindex: -1 }, next.title);
  main.replaceChildren(heading);
  main.dataset.view = next.name;
  next.begin(main, { rows: (section) => stream.rows(section), argument: rest.map(decodeURIComponent).join("/"), fail });
  view = next;
  stream.want(next.sections);
  return heading;
}

/** A key in the address is exchanged for a cookie that no script can read, and leaves the address. */
async function takeKey() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  history.replaceState(null, "", `${location.pathname}#/overview`);
  await showKey(key);
}

const showKey = (key) => ask("/page/session", { method: "POST", headers: { Authorization: `Bearer ${key}` } });

function askForKey(why) {
  view?.end?.();
  view = null;
  stream.want([]);
  live.textContent = "not let in";
  live.className = "bad";
  const field = make("input", { type: "password", autocomplete: "off", required: true, id: "key" });
  const said = make("p", { class: "trouble", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    try {
      await showKey(field.value.trim());
      await begin();
    } catch (error) {
      said.textContent = error.message;
    }
  };
  main.replaceChildren(
    make("h2", { tabindex: -1 }, "Who is there?"),
    make("p", {}, "Open the address that ", make("code", {}, "ray_rs dashboard"), " prints, or give the key that ", make("code", {}, "ray_rs get-auth-token"), " prints."),
    make("form", { class: "tools", onsubmit: submit }, make("label", { for: "key" }, "Key"), field, make("button", {}, "Go on")),
    said,
    make("p", { class: "soft" }, why),
  );
  field.focus();
}

async function begin() {
  const { session_name: session, ray_commit: version } = await ask("/api/version");
  document.getElementById("session").textContent = `${version} · ${session}`;
  route();
}

// To go where one is means to begin anew.
const press = (event) => event.currentTarget.hash === location.hash && route().focus();
links.append(...VIEWS.map((each) => make("li", {}, make("a", { href: `#/${each.name}`, onclick: press }, each.title))));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => {
  if (new URLSearchParams(location.hash.slice(1)).has("key")) takeKey().then(begin).catch(fail);
  else route().focus();
});
takeKey().then(begin).catch(fail);
