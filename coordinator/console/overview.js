// What is going on, and what is stuck.

import { get, getOfAll } from "./api.js";
import { h, show, svg } from "./dom.js";
import { STUCK_MS, transactions } from "./list.js";
import { age, clock, count } from "./words.js";

/** What is stuck: so many are shown ... */
const SHOWN = 20;
/** ... and so many counted. */
const COUNTED = 100;
/** Samples of the rates that are kept: some five minutes. */
const SAMPLES = 150;
const RATES = ["begun", "committed", "rolledBack"];
/** Kept while other views are looked at. */
const samples = [];

export const every = 2000;

export async function refresh(place, signal) {
  const stuckBefore = new Date(Date.now() - STUCK_MS).toISOString();
  const oldest = { oldestFirst: true, pageSize: COUNTED + 1 };
  const [status, parked, late] = await Promise.all([
    getOfAll("status", signal),
    get("transactions", { ...oldest, parkedOnly: true }, signal),
    get("transactions", {
      ...oldest,
      states: ["TRANSACTION_STATE_PREPARING", "TRANSACTION_STATE_COMMITTING", "TRANSACTION_STATE_ROLLING_BACK"],
      begunBefore: stuckBefore,
    }, signal),
  ]);
  if (status) sample(status);
  show(place,
    h("h1", {}, "Overview"),
    status ? figures(status) : h("p", { class: "nothing" }, "This token is of one tenant, and so is what is listed here. " +
      "The rest of the overview, participants and resources are for who sees all tenants."),
    h("h2", {}, "What is stuck"),
    stuck(parked.transactions, late.transactions),
    status && about(status));
}

function figures(status) {
  return [
    status.draining && h("p", { class: "warning" }, "This coordinator is draining: it begins no transactions."),
    h("section", { class: "tiles" },
      tile("in flight", count(status.liveTransactions), undefined, "#/transactions?live"),
      tile("branches in doubt", count(status.inDoubtBranches), undefined, "#/transactions?doubt"),
      tile("parked", count(status.parkedTransactions), status.parkedTransactions > 0 && "bad", "#/transactions?parked"),
      tile("oldest", status.oldestBegunAt ? age(status.oldestBegunAt) : "–"),
      tile("heuristic branches", count(status.heuristicBranches), status.heuristicBranches > 0 && "bad"),
      RATES.map((rate) => tile(`${rate.replace("B", " b")} a second`, perSecond(rate), rate))),
    chart(),
  ];
}

/** The oldest of them, and where the others are. */
function stuck(parked, late) {
  const all = [...new Map([...parked, ...late].map((one) => [one.gtid, one])).values()].sort((a, b) => (a.gtid < b.gtid ? -1 : 1));
  const isCounted = Math.max(parked.length, late.length) <= COUNTED;
  return [
    transactions(all.slice(0, SHOWN), "Nothing is parked, and nothing has been under way for more than ten seconds."),
    all.length > SHOWN && h("p", { class: "more" },
      `The oldest ${SHOWN} of ${isCounted ? all.length : `more than ${COUNTED}`}; the others are among `,
      h("a", { href: "#/transactions?parked" }, "all that are parked"), " and ",
      h("a", { href: "#/transactions?late" }, "all that have been under way for more than ten seconds"), "."),
  ];
}

function about(status) {
  return h("footer", {}, `Concord ${status.version} · cluster ${BigInt(status.clusterId).toString(16).padStart(16, "0")} · ` +
    `epoch ${status.epoch} · started ${clock(status.startedAt)} · ${count(status.logRecords)} records in ` +
    `${count(status.logSyncs)} syncs · ${count(status.calls)} calls, ${count(status.callsFailed)} failed`);
}

function tile(name, value, kind, href) {
  return h(href ? "a" : "div", { class: `tile ${kind || ""}`, href },
    h("span", { class: "value" }, value), h("span", { class: "name" }, name));
}

function sample(status) {
  const last = samples.at(-1);
  // Another life of the coordinator counts from nought.
  if (last && last.epoch !== status.epoch) samples.length = 0;
  samples.push({ at: performance.now(), epoch: status.epoch, counts: RATES.map((rate) => Number(status[rate])) });
  if (samples.length > SAMPLES) samples.shift();
}

function rates(place) {
  return samples.slice(1).map((next, index) => {
    const { at, counts } = samples[index];
    return ((next.counts[place] - counts[place]) * 1000) / Math.max(1, next.at - at);
  });
}

function perSecond(rate) {
  const last = rates(RATES.indexOf(rate)).at(-1);
  return last === undefined ? "…" : count(last < 10 ? Math.round(last * 10) / 10 : Math.round(last));
}

/** The rates of the last minutes as lines. */
function chart() {
  const lines = RATES.map((_, place) => rates(place));
  if (lines[0].length < 2) return h("p", { class: "nothing" }, "The rates of the last minutes will be here.");
  const top = Math.max(1, ...lines.flat());
  const [width, height] = [900, 140];
  const points = (line) => line.map((value, index) =>
    `${((index * width) / (SAMPLES - 2)).toFixed(1)},${(height - (value / top) * (height - 10)).toFixed(1)}`).join(" ");
  return h("figure", {},
    svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": "Rates of the last minutes", preserveAspectRatio: "none" },
      lines.map((line, place) => svg("polyline", { points: points(line), class: RATES[place] }))),
    h("figcaption", {}, RATES.map((rate) => h("span", { class: `legend ${rate}` }, rate.replace("B", " b"))),
      ` up to ${count(Math.round(top))} a second`));
}
