// One transaction: where it is, how it got there, and what can be done about it.

import { follow, get, hasToken, post } from "./api.js";
import { ask, h, show, table } from "./dom.js";
import { badge } from "./list.js";
import { clock, ended, isOver, plain, protocol, span, why } from "./words.js";

/** What is behind the stream of changes (attempts, errors) is read now and then. */
export const every = 2000;

export function begin(place, { gtid }, signal, fail) {
  place.replaceChildren(h("h1", {}, "Transaction"), h("p", { class: "nothing" }, "…"));
  const changed = () => refresh(place, signal, { gtid }).catch(fail);
  follow(`transactions/${gtid}/watch`, signal, changed).catch(fail);
}

export async function refresh(place, signal, { gtid }) {
  const { transaction } = await get(`transactions/${gtid}`, {}, signal);
  const { begunAt, decidedAt, endedAt } = transaction;
  const took = (from, to) => (from && to ? ` (${span(new Date(to) - new Date(from))})` : "");
  show(place,
    h("h1", {}, h("code", {}, gtid), " ", badge(transaction)),
    why(transaction) && h("p", { class: transaction.parked ? "warning" : "why" }, why(transaction)),
    h("dl", {},
      fact("name", transaction.name || "–"),
      fact("protocol", `${protocol(transaction)}, ${plain(transaction.grade)}`),
      fact("begun", clock(begunAt)),
      fact("decided", clock(decidedAt) + took(begunAt, decidedAt)),
      fact("ended", clock(endedAt) + took(decidedAt || begunAt, endedAt)),
      transaction.tenant && fact("tenant", transaction.tenant),
      fact("time-out", span(transaction.timeoutMs))),
    h("section", { class: "orders", "aria-label": "Orders" }, orders(transaction)),
    h("h2", {}, "Branches"),
    table(["branch", "protocol", "participant", "action", "state", "attempts", "last error"],
      transaction.branches.map((branch) => ({
        key: branch.branchId,
        cells: [String(branch.branchId), plain(branch.kind).toUpperCase(),
          h("a", { href: `#/transactions?participant=${encodeURIComponent(branch.participant)}` }, branch.participant),
          branch.action || "–", h("span", { class: `state ${branch.state}` }, plain(branch.state)),
          attempts(branch), branch.lastError],
      })), "No branch has joined."),
    h("h2", {}, "What happened"),
    timeline(transaction),
    h("p", { class: "nothing" }, isOver(transaction) ? "Only what is on record: single calls are not."
      : "Calls that went well are not listed; of those that did not, and of what followed them, the last 50 since the coordinator's start."));
  // What `show` left as it was has the listeners of before.
  for (const button of place.querySelectorAll("button[data-order]")) {
    button.onclick = () => give(button.dataset.order, transaction).then((given) => given && refresh(place, signal, { gtid }));
  }
}

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

function attempts({ attempts, nextAttemptAt }) {
  return nextAttemptAt ? `${attempts}, next in ${span(Math.max(0, new Date(nextAttemptAt) - Date.now()))}` : String(attempts);
}

function timeline(transaction) {
  if (!transaction.history.length) return h("p", { class: "nothing" }, "Nothing is on record yet.");
  const start = new Date(transaction.history[0].at);
  return h("ol", { class: "timeline" }, transaction.history.map((event) => h("li", { class: event.kind },
    h("time", { datetime: event.at, title: clock(event.at) }, `+${span(new Date(event.at) - start)}`),
    h("strong", {}, event.kind.replaceAll("_", " ")), h("span", {}, event.detail))));
}

function orders(transaction) {
  if (isOver(transaction)) return h("p", { class: "nothing" }, "It has ended: there is nothing to order.");
  const undecided = ["TRANSACTION_STATE_ACTIVE", "TRANSACTION_STATE_PREPARING"].includes(transaction.state);
  const button = (order, text, title, kind) => h("button", { type: "button", class: kind, "data-order": order, title }, text);
  return undecided
    ? [button("rollback", "Roll back …", "End it: nothing of it will have happened"),
      // Its only branch was to commit in one phase, and does not say whether it has.
      transaction.state === "TRANSACTION_STATE_PREPARING" && transaction.reason &&
        button("resolve", "Force an outcome …", "Declare how its branch ended, without asking it", "danger")]
    : [button("retry", "Retry now", "Deliver the decision at once, to parked branches too"),
      !transaction.parked && button("park", "Park …", "Stop retrying until somebody says so"),
      button("resolve", "Force an outcome …", "Declare how branches ended, without asking them", "danger")];
}

/** Gives an order; answers whether it was given. */
async function give(order, transaction) {
  const isKnown = operator() || hasToken();
  const asked = order === "retry" && isKnown ? { operator: operator() } : await ask(...question(order, transaction));
  if (!asked) return false;
  if (asked.operator) localStorage.setItem("operator", asked.operator);
  try {
    await post(`transactions/${transaction.gtid}/${order}`, body(order, asked));
    return true;
  } catch (problem) {
    await ask("It was not done", h("p", {}, problem.message), buttons("Close"));
    return false;
  }
}

function body(order, { operator, reason, branchId, outcome }) {
  switch (order) {
    case "rollback": return { operator, reason, wait: "WAIT_DECIDED" };
    case "resolve": return { operator, reason, outcome, branchId: Number(branchId) };
    case "park": return { operator, reason };
    default: return { operator };
  }
}

function operator() {
  return localStorage.getItem("operator") || "";
}

function question(order, transaction) {
  const who = label("Who are you?", h("input", { name: "operator", required: !hasToken(), maxlength: 100, value: operator() }));
  const reason = label("Why?", h("textarea", { name: "reason", required: true, maxlength: 800, rows: 3 }));
  const unfinished = transaction.branches.filter((branch) => !ended(branch.state));
  switch (order) {
    case "rollback":
      return ["Roll back", h("p", {}, "No branch has been told to commit. After this none will be."), who, reason, buttons("Roll it back", "Leave it")];
    case "retry":
      return ["Retry", h("p", {}, "Every branch that has not ended is called at once."), who, buttons("Retry it", "Leave it")];
    case "park":
      return ["Park", h("p", {}, "Its decision stands, and what is not delivered stays so until somebody retries. Prepared branches keep their locks."), who, reason, buttons("Park it", "Leave it")];
    default:
      return ["Force an outcome",
        h("p", { class: "warning" }, "Nothing is sent to the participant: declare only what you have done yourself, in its database. ",
          transaction.state === "TRANSACTION_STATE_PREPARING" ? "Nothing is decided: what you declare is how the transaction ends."
            : `The decision was to ${transaction.state === "TRANSACTION_STATE_COMMITTING" ? "commit" : "roll back"}; anything else is recorded as heuristic, and the databases will disagree.`),
        label("Which branch?", h("select", { name: "branchId" }, h("option", { value: 0 }, "every branch that has not ended"),
          unfinished.map((branch) => h("option", { value: branch.branchId }, `${branch.branchId} at ${branch.participant}`)))),
        label("How did it end?", h("select", { name: "outcome", required: true }, h("option", { value: "" }, "choose …"),
          h("option", { value: "TRANSACTION_STATE_COMMITTED" }, "committed"), h("option", { value: "TRANSACTION_STATE_ROLLED_BACK" }, "rolled back"))),
        who, reason, buttons("Force it", "Leave it", "danger")];
  }
}

function label(text, field) {
  return h("label", {}, text, field);
}

function buttons(yes, no, kind) {
  return h("p", { class: "buttons" },
    no && h("button", { value: "no", formnovalidate: true }, no),
    h("button", { value: "yes", class: kind || "primary" }, yes));
}
