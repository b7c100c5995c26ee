// The morning list: filters without asking the server, and enters calls without loading the page again.
// Without this script the same forms work by themselves.
"use strict";

(() => {
  const filters = document.getElementById("filters");
  const calls = document.getElementById("calls");
  if (!filters || !calls) return;
  const body = calls.querySelector("tbody");
  const rows = [...body.rows];
  const at = (id) => document.getElementById(id);
  const chosen = (name) => filters.elements.namedItem(name).value;

  // Read in the morning, filled in at the end of it: nobody's answers of yesterday come back.
  filters.setAttribute("autocomplete", "off");
  at("apply").hidden = true;

  const orders = {
    rank: () => 0,
    discharged: (a, b) => compared(Date.parse(a.discharged), Date.parse(b.discharged)),
    hospital: (a, b) => compared(a.hospital, b.hospital),
    encounter: (a, b) => compared(a.encounter, b.encounter),
  };

  function compared(a, b) {
    return a < b ? -1 : a > b ? 1 : 0;
  }

  function matches(row, view) {
    const said = row.dataset;
    const state = !view.state || view.state === said.state || (view.state === "open" && said.settled === "false");
    const found = `${said.encounter}\n${said.patient}`.toLocaleLowerCase().includes(view.text);
    return (!view.tier || view.tier === said.tier) && (!view.hospital || view.hospital === said.hospital) && state && found;
  }

  function apply() {
    const view = { tier: chosen("tier"), hospital: chosen("hospital"), state: chosen("state"), text: chosen("text").trim().toLocaleLowerCase() };
    let shown = 0;
    for (const row of rows) {
      row.hidden = !matches(row, view);
      shown += row.hidden ? 0 : 1;
    }
    at("count").textContent = shown === rows.length ? "All shown" : `${shown} of ${rows.length} shown`;
    at("nobody").hidden = shown > 0;
    remember();
  }

  function reorder() {
    const order = orders[chosen("sort")] || orders.rank;
    rows.sort((a, b) => order(a.dataset, b.dataset) || a.dataset.rank - b.dataset.rank);
    body.append(...rows);
  }

  // The text stays out of the address: it may name an encounter.
  function remember() {
    const said = new URLSearchParams();
    for (const name of ["tier", "hospital", "state", "sort", "show"]) {
      const value = chosen(name);
      if (value && !(name === "sort" && value === "rank")) said.set(name, value);
    }
    const query = said.toString();
    const path = new URL(filters.action).pathname;
    history.replaceState(null, "", query ? `${path}?${query}` : path);
    said.set("print", "1");
    at("print").href = `${path}?${said}`;
  }

  let soon;
  filters.addEventListener("input", (event) => {
    clearTimeout(soon);
    soon = setTimeout(apply, event.target.id === "text" ? 120 : 0);
  });
  filters.addEventListener("change", (event) => {
    if (event.target.name === "sort") reorder();
  });
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });

  function fail(text, login) {
    const place = at("failure");
    place.textContent = text;
    if (login) {
      const link = document.createElement("a");
      link.href = login;
      link.textContent = "Sign in";
      place.append(" ", link);
    }
    place.hidden = !text;
    if (text) place.scrollIntoView({ block: "nearest" });
  }

  function count() {
    at("called").textContent = rows.filter((row) => row.dataset.state !== "none").length;
    at("reached").textContent = rows.filter((row) => row.dataset.state === "reached").length;
  }

  calls.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.submitter;
    const row = button && button.closest("tr");
    if (!row || row.dataset.busy) return;
    row.dataset.busy = "yes";
    const buttons = [...row.querySelectorAll("button")];
    const form = new URLSearchParams({ csrf: calls.elements.namedItem("csrf").value, mark: button.value });
    for (const each of buttons) each.setAttribute("aria-disabled", "true");
    try {
      const answer = await fetch(calls.action, { method: "POST", body: form, headers: { Accept: "application/json" } });
      const told = await answer.json();
      if (!answer.ok) {
        fail(`Rank ${row.dataset.rank} was not marked. ${told.said}`, told.login);
        return;
      }
      fail("");
      const cell = row.querySelector(".call");
      cell.innerHTML = told.html;
      row.dataset.state = told.state;
      row.dataset.settled = String(told.settled);
      count();
      at("said").textContent = `${told.said} ${at("called").textContent} of ${rows.length} called.`;
      const next = cell.querySelector("button[value^=undo]") || cell.querySelector("button");
      if (next) next.focus();
    } catch {
      fail(`Rank ${row.dataset.rank} was not marked: the service does not answer. Try again.`);
    } finally {
      delete row.dataset.busy;
      for (const each of buttons) each.removeAttribute("aria-disabled");
    }
  });

  // A browser that comes back to the page may have kept what was chosen.
  reorder();
  apply();
})();
