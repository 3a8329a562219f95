// The coordinator's HTTP/JSON API. Answers are as docs and /v1/openapi.json give them.

/** Why a call was not carried out; `reason` is stable, the message is for people. */
export class Problem extends Error {
  constructor(detail, status, reason) {
    super(detail);
    this.status = status;
    this.reason = reason;
  }
}

/** Where the token is kept: as long as this tab is open, and for nobody else. */
const TOKEN = "concord-token";

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const forgetToken = () => sessionStorage.removeItem(TOKEN);
export const keepToken = (token) => sessionStorage.setItem(TOKEN, token.trim());

async function call(path, { headers = {}, ...options } = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const shown = token ? { authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...shown } });
  } catch {
    throw new Problem("The coordinator does not answer.", 0);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Problem(problem.detail || response.statusText, response.status, problem.reason);
}

export function query(parameters) {
  const given = Object.entries(parameters).flatMap(([name, value]) =>
    [value].flat().filter((one) => one !== undefined && one !== "" && one !== false).map((one) => [name, one]));
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export async function get(path, parameters = {}, signal) {
  return (await call(`/v1/${path}${query(parameters)}`, { signal })).json();
}

/** The token that is known to be of one tenant. */
let ofOneTenant;

/** What is about all tenants; null where the token is of one. It is not asked for again then: who is turned away is counted. */
export async function getOfAll(path, signal) {
  const token = sessionStorage.getItem(TOKEN);
  if (token && token === ofOneTenant) return null;
  try {
    return await get(path, {}, signal);
  } catch (problem) {
    // Listing is for the same roles, and for every tenant.
    if (problem.status !== 403 || !await get("transactions", { pageSize: 1 }, signal).catch(() => null)) throw problem;
    ofOneTenant = token;
    return null;
  }
}

export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  return (await call(`/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** Calls `each` with every object of a stream, until it ends or `signal` says so. */
export async function follow(path, signal, each) {
  const response = await call(`/v1/${path}`, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const one = JSON.parse(line);
      if (one.error) throw new Problem(one.error.detail, one.error.status, one.error.reason);
      each(one);
    }
  }
}
