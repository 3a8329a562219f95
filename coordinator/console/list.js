// Transactions as rows, wherever they are listed.

import { h, table } from "./dom.js";
import { age, clock, protocol, state, why } from "./words.js";

/** Under way for so long: somebody should look. */
export const STUCK_MS = 10_000;

export function badge(transaction) {
  return [
    h("span", { class: `state ${transaction.state}` }, state(transaction)),
    transaction.parked && h("span", { class: "state parked" }, "parked"),
    transaction.heuristic && h("span", { class: "state heuristic" }, "heuristic"),
  ];
}

export function transactions(list, nothing) {
  return table(["gtid", "name", "state", "protocol", "branches", "begun", "age", "why"], list.map((one) => ({
    href: `#/transactions/${one.gtid}`,
    key: one.gtid,
    cells: [h("code", {}, one.gtid), one.name || "–", badge(one), protocol(one), String(one.branches.length),
      h("time", {}, clock(one.begunAt)), one.endedAt ? "ended" : h("span", { class: "age" }, age(one.begunAt)), why(one)],
  })), nothing);
}
