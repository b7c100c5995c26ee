// The board: renews its times without loading the page again, and turns between its languages.
// Without this script the page loads itself again, with the languages one below the other.
"use strict";

(() => {
  const REFRESH_MS = 30_000;
  const GIVE_UP_MS = 10_000;
  const TURN_MS = 12_000;
  // After two refreshes that failed it says so; times that are too old it takes away.
  const LOST_MS = 75_000;

  const board = document.getElementById("board");
  const said = document.getElementById("said");
  const wide = matchMedia("(min-width: 60rem) and (min-aspect-ratio: 5/4)");
  let tag = "";
  let renewed = Date.now();
  // How far this machine's clock is ahead of the server's.
  let ahead = 0;
  let turn = 0;

  const languages = () => [...board.querySelectorAll(".side")].map((side) => side.lang);

  // One language at a time on a screen that nobody scrolls.
  function face() {
    const there = languages();
    const turning = wide.matches && there.length > 1;
    const on = there[turn % there.length];
    document.body.classList.toggle("turning", turning);
    for (const each of document.querySelectorAll(".turn")) each.classList.toggle("on", each.lang === on);
  }

  function words() {
    return [...board.querySelectorAll(".side")].map((side) => side.textContent.replace(/\s+/g, " ").trim()).join(" ");
  }

  function show(html) {
    const before = words();
    board.innerHTML = html;
    face();
    if (words() === before) return;
    const side = board.querySelector(".side.on") || board.querySelector(".side");
    const told = side.querySelector(".main-band .spoken, .blank");
    said.lang = side.lang;
    said.textContent = told ? told.textContent : "";
  }

  // NaN where no times are shown: then nothing grows old.
  const until = () => Date.parse(document.getElementById("sheet").dataset.validUntil);

  function judge() {
    if (until() < Date.now() - ahead) {
      tag = "";
      show(document.getElementById("blank").innerHTML);
    }
    document.getElementById("lost").hidden = isNaN(until()) || Date.now() - renewed < LOST_MS;
  }

  async function renew() {
    // Not AbortSignal.timeout: the browsers of televisions are years old.
    const late = new AbortController();
    const patience = setTimeout(() => late.abort(), GIVE_UP_MS);
    try {
      const known = tag ? { "If-None-Match": tag } : {};
      // Elsewhere is a page to sign in, and no board.
      const answer = await fetch(board.dataset.times, { headers: known, cache: "no-store", redirect: "error", signal: late.signal });
      if (answer.status !== 304) {
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        const html = await answer.text();
        // A gateway in between may answer with a page of its own: it must not take the board's place.
        if (!html.includes('id="sheet"')) throw new Error("not a board");
        const madeFor = document.getElementById("sheet").dataset.madeFor;
        show(html);
        tag = answer.headers.get("ETag") || "";
        // The service was renewed: so must this script and the style sheet be.
        if (document.getElementById("sheet").dataset.madeFor !== madeFor) location.reload();
      }
      renewed = Date.now();
      ahead = renewed - Date.parse(answer.headers.get("Date")) || 0;
    } catch {
      // What is shown stays until it is too old.
    } finally {
      clearTimeout(patience);
    }
    judge();
  }

  wide.addEventListener("change", face);
  document.addEventListener("visibilitychange", () => document.hidden || renew());
  setInterval(renew, REFRESH_MS);
  setInterval(() => {
    turn += 1;
    face();
  }, TURN_MS);
  face();
  renew();
})();
