// The databases that the coordinator reaches itself, and what is prepared in them.

import { getOfAll } from "./api.js";
import { h, show, table } from "./dom.js";
import { FOR_ALL_TENANTS, age, count } from "./words.js";

export const every = 5000;

export async function refresh(place, signal) {
  const answer = await getOfAll("resources", signal);
  const found = answer && await getOfAll("in-doubt", signal);
  show(place, h("h1", {}, "Resources"), found ? listed(answer, found) : h("p", { class: "nothing" }, FOR_ALL_TENANTS));
}

function listed({ resources }, { branches, unreachable }) {
  return [
    table(["resource", "health", "server", "address", "in doubt, ours", "in doubt, foreign", "swept", "ended by the sweeper", "participants"],
      resources.map((one) => ({
        key: one.name,
        cells: [one.name, one.reachable ? h("span", { class: "state good" }, "reachable") : h("span", { class: "state bad", title: one.error }, one.error || "not reached yet"),
          one.server, one.address, count(one.inDoubtOurs), count(one.inDoubtForeign), one.sweptAt ? `${age(one.sweptAt)} ago` : "never",
          `${count(one.committedBySweeper)} committed, ${count(one.rolledBackBySweeper)} rolled back`, one.participants.join(", ")],
      })), "No resource is configured ([[resource]]): the coordinator leaves recovery to the participants."),
    h("h2", {}, "Prepared branches found there"),
    unreachable.map((one) => h("p", { class: "warning" }, `${one.resource} could not be asked: ${one.error}`)),
    table(["resource", "xid", "transaction", "verdict", "for"], branches.map((one) => ({
      key: one.xid,
      cells: [one.resource, h("code", {}, one.xid),
        one.ours ? h("a", { href: `#/transactions/${one.gtid}` }, `${one.gtid}, branch ${one.branchId}`) : "not ours: left alone",
        one.verdict || "–", one.firstSeenAt ? age(one.firstSeenAt) : "–"],
    })), "None."),
  ];
}
