// Looking for transactions.

import { get } from "./api.js";
import { h, show } from "./dom.js";
import { STUCK_MS, transactions } from "./list.js";
import { stateOfAny } from "./words.js";

const STATES = ["ACTIVE", "PREPARING", "COMMITTING", "COMMITTED", "ROLLING_BACK", "ROLLED_BACK"]
  .map((state) => `TRANSACTION_STATE_${state}`);
const AGES = { "ten seconds": STUCK_MS, "a minute": 60_000, "ten minutes": 600_000, "an hour": 3_600_000, "a day": 86_400_000 };
/** What a link can ask for: the states that the form then shows. */
const LINKS = {
  live: [STATES[0], STATES[1], STATES[2], STATES[4]],
  doubt: [STATES[1], STATES[2], STATES[4]],
  late: [STATES[1], STATES[2], STATES[4]],
};
const PAGE_SIZE = 50;

export const every = 2000;

let form, results, found;
let searches = 0;

export function begin(place, parameters) {
  const asked = Object.keys(parameters)[0];
  const states = LINKS[asked] || [];
  found = [];
  results = h("div", {});
  const again = () => refresh().catch(() => {});
  form = h("form", { class: "filters", onsubmit: (event) => event.preventDefault(), onchange: again },
    h("input", { type: "search", name: "text", id: "search", placeholder: "gtid, name, participant, error … ( / )", "aria-label": "Text", value: parameters.text, oninput: later(again) }),
    h("details", { class: "states" }, h("summary", {}, "states"), STATES.map((state) => h("label", {},
      h("input", { type: "checkbox", name: "states", value: state, checked: states.includes(state) }), stateOfAny(state)))),
    h("select", { name: "kind", "aria-label": "Protocol" }, h("option", { value: "" }, "any protocol"),
      h("option", { value: "BRANCH_KIND_XA" }, "XA"), h("option", { value: "BRANCH_KIND_TCC" }, "TCC")),
    h("input", { name: "participant", placeholder: "participant, letter for letter", "aria-label": "Participant", value: parameters.participant }),
    h("select", { name: "older", "aria-label": "Age" }, h("option", { value: "" }, "any age"),
      Object.entries(AGES).map(([name, ms]) => h("option", { value: ms, selected: asked === "late" && ms === STUCK_MS }, `older than ${name}`)),
      Object.entries(AGES).map(([name, ms]) => h("option", { value: -ms }, `of the last ${name.replace(/^an? /, "")}`))),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "parkedOnly", checked: asked === "parked" }), "parked only"));
  place.replaceChildren(h("h1", {}, "Transactions"), form, results);
  if (asked === "find") document.getElementById("search").focus();
}

/** The first page, again. */
export async function refresh(_place, signal) {
  // Who has gone on to further pages reads them.
  if (signal && found.length > PAGE_SIZE) return;
  await search([], "", signal);
}

/** Adds a page to what was found before. */
async function search(before, token, signal) {
  const mine = ++searches;
  const list = [...before];
  // A page may be short where few are what is looked for.
  do {
    const missing = before.length + PAGE_SIZE - list.length;
    const page = await get("transactions", { ...filter(), pageSize: missing, pageToken: token }, signal);
    // Another search has begun.
    if (mine !== searches) return;
    list.push(...page.transactions);
    token = page.nextPageToken;
  } while (token && list.length < before.length + PAGE_SIZE);
  found = list;
  show(results, transactions(found, "Nothing is like this."));
  if (token) results.append(h("button", { type: "button", class: "more", onclick: () => search(found, token) }, "More"));
}

function filter() {
  const fields = new FormData(form);
  const older = Number(fields.get("older"));
  const bound = new Date(Date.now() - Math.abs(older)).toISOString();
  return {
    text: fields.get("text").trim(),
    states: fields.getAll("states"),
    kind: fields.get("kind"),
    participant: fields.get("participant").trim(),
    parkedOnly: fields.has("parkedOnly"),
    begunBefore: older > 0 ? bound : "",
    begunAfter: older < 0 ? bound : "",
  };
}

/** Once nothing has been typed for a moment. */
function later(work) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, 250);
  };
}
