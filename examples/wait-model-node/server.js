"use strict";
// A wait-time model in another language: the interface edwait/1 with nothing but Node itself.
//
//   PORT=8099 TOKEN=secret node server.js
//
// The model: everybody who waits, and the newcomer, are seen at the rate of the last two hours; where nobody was
// seen in that time, the mean of the waits that ended. Replace `estimate`; the rest may stay.

const http = require("node:http");
const { timingSafeEqual } = require("node:crypto");

const MODEL = { name: process.env.MODEL_NAME || "node_queue", version: process.env.MODEL_VERSION || "1.0.0" };
const TOKEN = process.env.TOKEN || "";
const LONGEST_BODY = 20e6;
const LONGEST_WAIT_S = 24 * 3600;
const WINDOW_S = 2 * 3600;
const HEADLINE = new Set([3, 4, 5, null]);

/** Seconds that somebody who arrives at `asOf` (ms) will typically wait, and how many in ten wait no longer. */
function estimate(facility, asOf) {
  const waits = facility.waits
    .filter((w) => HEADLINE.has(w.ctas) && (asOf - Date.parse(w.ended_at)) / 1000 <= WINDOW_S)
    .map((w) => w.wait_seconds)
    .sort((a, b) => a - b);
  if (waits.length < 3) return null;
  const ahead = facility.waiting.filter((w) => HEADLINE.has(w.ctas)).length + 1;
  const drained = (ahead * WINDOW_S) / waits.length;
  const mean = waits.reduce((sum, w) => sum + w, 0) / waits.length;
  const typical = Math.min((drained + mean) / 2, LONGEST_WAIT_S);
  const eightInTen = waits[Math.ceil(0.8 * waits.length) - 1];
  return { typical, eightInTen: Math.min(Math.max(typical, eightInTen), LONGEST_WAIT_S) };
}

function metadata() {
  return {
    ...MODEL,
    api: "edwait/1",
    target: "pia_wait_seconds",
    start_event: "arrival",
    end_event: "pia",
    scope: "ctas3-5",
    quantiles: [0.5, 0.8],
    max_history_hours: 24,
    columns: ["ended_at", "wait_seconds", "ctas", "since"],
  };
}

function predict(body) {
  const asOf = Date.parse(body.as_of);
  const predictions = body.facilities.map((facility) => {
    const found = estimate(facility, asOf);
    if (found === null) return { facility_id: facility.facility_id, status: "no_data" };
    return {
      facility_id: facility.facility_id,
      status: "ok",
      wait_seconds: found.typical,
      quantiles: { "0.8": found.eightInTen },
    };
  });
  return { model: MODEL, as_of: body.as_of, predictions };
}

function allowed(request) {
  if (!TOKEN) return true;
  const given = Buffer.from(request.headers.authorization || "");
  const wanted = Buffer.from(`Bearer ${TOKEN}`);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

function read(request) {
  return new Promise((resolve, reject) => {
    const chunks = [];
    let size = 0;
    request.on("data", (chunk) => {
      size += chunk.length;
      if (size > LONGEST_BODY) reject(new Error("too long"));
      else chunks.push(chunk);
    });
    request.on("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
    request.on("error", reject);
  });
}

async function answer(request) {
  if (!allowed(request)) return [401, { error: "unauthorised" }];
  if (request.method === "GET" && request.url === "/metadata") return [200, metadata()];
  if (request.method !== "POST" || request.url !== "/predict") return [404, { error: "not found" }];
  try {
    return [200, predict(JSON.parse(await read(request)))];
  } catch {
    return [400, { error: "not an edwait/1 request" }];
  }
}

const server = http.createServer(async (request, response) => {
  const [status, content] = await answer(request);
  response.writeHead(status, { "Content-Type": "application/json" });
  response.end(JSON.stringify(content));
});

server.listen(Number(process.env.PORT || 8099), process.env.HOST || "127.0.0.1", () => {
  console.log(`listening on ${server.address().port}`);
});
process.on("SIGTERM", () => server.close(() => process.exit(0)));
