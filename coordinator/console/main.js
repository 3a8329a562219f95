// Which view is shown, keeping it fresh, and the keys.

import { forgetToken, hasToken, keepToken } from "./api.js";
import { ask, h } from "./dom.js";
import * as overview from "./overview.js";
import * as participants from "./participants.js";
import * as resources from "./resources.js";
import * as transaction from "./transaction.js";
import * as transactions from "./transactions.js";

const place = document.getElementById("view");
const connection = document.getElementById("connection");
const door = document.getElementById("door");
const VIEWS = { "": overview, transactions, participants, resources };

/** Ends what the view before has under way. */
let leaving = new AbortController();

function route() {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, gtid] = path.split("/");
  const parameters = Object.fromEntries(new URLSearchParams(search));
  if (name === "transactions" && gtid) return { view: transaction, name, parameters: { gtid } };
  return { view: VIEWS[name] || overview, name: name || "overview", parameters };
}

async function enter() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { view, name, parameters } = route();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const fail = (problem) => !signal.aborted && told(problem);
  place.replaceChildren(h("p", { class: "nothing" }, "…"));
  view.begin?.(place, parameters, signal, fail);
  while (!signal.aborted) {
    try {
      await view.refresh(place, signal, parameters);
      told();
    } catch (problem) {
      fail(problem);
      if (problem.status === 401 && !signal.aborted && await signIn(problem)) continue;
    }
    await new Promise((go) => setTimeout(go, view.every));
    // Nobody looks: nothing is asked.
    if (document.hidden) await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
  }
}

/** Says whether what is shown is true now. */
function told(problem) {
  connection.textContent = problem ? `${problem.message} What is shown may be old.` : "live";
  connection.className = problem ? "bad" : "good";
}

/** Not asked again for what was not answered; there is a button for that. */
let declined = false;

/** Asks for a token, where the coordinator wants one; whether there is another one now. */
async function signIn(problem) {
  if (declined || document.querySelector("dialog")) return false;
  const why = problem.reason === "NO_TOKEN" ? "The coordinator wants to know who asks." : problem.message;
  const answer = await ask("Sign in", h("p", {}, why),
    h("label", {}, "Token", h("input", { name: "token", type: "password", required: true, autocomplete: "off", autofocus: true })),
    h("p", { class: "buttons" }, h("button", { value: "no", formnovalidate: true }, "Not now"), h("button", { value: "yes", class: "primary" }, "Sign in")));
  declined = !answer;
  if (answer) keepToken(answer.token);
  showDoor();
  return Boolean(answer);
}

/** The button by which one comes in, or leaves. */
function showDoor() {
  door.hidden = !hasToken() && !declined;
  door.textContent = hasToken() ? "Sign out" : "Sign in";
}

door.addEventListener("click", () => {
  forgetToken();
  declined = false;
  showDoor();
  enter();
});
showDoor();

// Keys: g and a letter go to a view, j and k walk through rows.
const GO = { o: "#/", t: "#/transactions", p: "#/participants", r: "#/resources" };
let going = false;

function key(event) {
  if (event.target.closest("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape") event.target.blur?.();
    return;
  }
  const goes = going && GO[event.key];
  going = event.key === "g" && !going;
  if (goes) location.hash = goes;
  else if (event.key === "j" || event.key === "k") walk(event.key === "j" ? 1 : -1);
  else if (event.key === "/") find(event);
  else if (event.key === "?") help();
}

function walk(step) {
  const links = [...place.querySelectorAll("tr[data-href] td:first-child a")];
  const at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at + step))]?.focus();
}

function find(event) {
  event.preventDefault();
  const search = document.getElementById("search");
  if (search) search.focus();
  else location.hash = `${GO.t}?find`;
}

function help() {
  const keys = [["g o", "overview"], ["g t", "transactions"], ["g p", "participants"], ["g r", "resources"],
    ["/", "look for a transaction"], ["j, k", "next and previous row"], ["Enter", "open it"], ["Esc", "close, leave a field"], ["?", "this"]];
  ask("Keys", h("dl", { class: "keys" }, keys.map(([name, does]) => h("div", {}, h("dt", {}, h("kbd", {}, name)), h("dd", {}, does)))),
    h("p", { class: "buttons" }, h("button", { value: "no", class: "primary" }, "Close")));
}

place.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-href]");
  if (row && !event.target.closest("a, button") && !String(getSelection())) location.hash = row.dataset.href;
});
document.addEventListener("keydown", key);
document.getElementById("help").addEventListener("click", help);
addEventListener("hashchange", enter);
enter();
