// Whom the coordinator calls, and how they are.

import { getOfAll } from "./api.js";
import { h, show, table } from "./dom.js";
import { FOR_ALL_TENANTS, age, count } from "./words.js";

export const every = 2000;

/** Who has answered badly within so long most likely does so still: it is called again every half minute at the latest. */
const RECENT_MS = 120_000;

export async function refresh(place, signal) {
  const answer = await getOfAll("participants", signal);
  show(place, h("h1", {}, "Participants"), answer ? listed(answer.participants) : h("p", { class: "nothing" }, FOR_ALL_TENANTS));
}

function listed(participants) {
  return table(["participant", "health", "called", "calls under way", "failures in a row", "last error"], participants.map((one) => ({
    key: one.address,
    href: `#/transactions?participant=${encodeURIComponent(one.address)}`,
    cells: [one.address, health(one), called(one), count(one.callsUnderWay),
      count(one.failures), one.lastError && `${one.lastError} (${age(one.lastErrorAt)} ago)`],
  })), "No participant has been called or has attached since the coordinator started.");
}

function called({ address, streams, addresses = [] }) {
  if (streams) return `on ${count(streams)} of its streams`;
  const places = addresses.filter((place) => place.address !== address);
  if (places.length === 0) return "by connection";
  return places.map((place) => h("div", {}, place.address, place.passedOver && " ", place.passedOver && h("span", { class: "state warn" }, "passed over")));
}

function health(participant) {
  if (participant.breakerOpen) return h("span", { class: "state bad" }, "breaker open");
  if (participant.failures > 0) return h("span", { class: "state warn" }, "failing");
  // It is there, and something else is wrong with it.
  if (participant.lastErrorAt && Date.now() - new Date(participant.lastErrorAt) < RECENT_MS) return h("span", { class: "state warn" }, "answers with errors");
  return h("span", { class: "state good" }, "answers");
}
