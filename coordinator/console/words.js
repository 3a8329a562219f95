// How things are said.

/** TRANSACTION_STATE_ROLLING_BACK → rolling back */
export function plain(name) {
  return name.replace(/^(TRANSACTION_STATE|BRANCH_STATE|BRANCH_KIND|GRADE)_/, "").replaceAll("_", " ").toLowerCase();
}

/** A state in which TCC has words of its own. */
const OF_TCC = {
  TRANSACTION_STATE_PREPARING: "trying",
  TRANSACTION_STATE_COMMITTING: "confirming",
  TRANSACTION_STATE_ROLLING_BACK: "cancelling",
};

/** How far a transaction has come, in the words of `concord tx list`: those of TCC where every branch follows it. */
export function state({ state, branches }) {
  const tcc = branches.length > 0 && branches.every((branch) => branch.kind === "BRANCH_KIND_TCC");
  return (tcc && OF_TCC[state]) || plain(state);
}

/** The words for a state, whatever the branches follow. */
export function stateOfAny(state) {
  return [plain(state), OF_TCC[state]].filter(Boolean).join(", ");
}

/** To who has a tenant's token. */
export const FOR_ALL_TENANTS = "This token is of one tenant: what is here is for who sees all tenants.";

export function protocol(transaction) {
  const kinds = new Set(transaction.branches.map((branch) => branch.kind.replace("BRANCH_KIND_", "")));
  return [...kinds].sort().join(" + ") || "–";
}

/** Milliseconds, in the two largest units that matter. */
export function span(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]];
  const first = units.findIndex(([, size]) => ms >= size);
  const whole = Math.floor(ms / units[first][1]);
  const rest = first < 3 ? Math.floor((ms % units[first][1]) / units[first + 1][1]) : 0;
  return rest ? `${whole} ${units[first][0]} ${rest} ${units[first + 1][0]}` : `${whole} ${units[first][0]}`;
}

export function age(time) {
  return time ? span(Date.now() - new Date(time)) : "–";
}

export function clock(time) {
  if (!time) return "–";
  const at = new Date(time);
  const day = at.toDateString() === new Date().toDateString() ? "" : `${at.toLocaleDateString()} `;
  return `${day}${at.toLocaleTimeString(undefined, { hour12: false })}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

export function count(number) {
  return Number(number).toLocaleString("en");
}

/** Why it is where it is, in one line. */
export function why(transaction) {
  const failing = transaction.branches.find((branch) => branch.lastError && !ended(branch.state));
  const error = failing && `branch ${failing.branchId} at ${failing.participant}: ${failing.lastError}`;
  return transaction.reason || error || "";
}

export function ended(branchState) {
  return ["COMMITTED", "ROLLED_BACK", "READ_ONLY"].some((state) => branchState === `BRANCH_STATE_${state}`);
}

export function isOver(transaction) {
  return ["TRANSACTION_STATE_COMMITTED", "TRANSACTION_STATE_ROLLED_BACK"].includes(transaction.state);
}
