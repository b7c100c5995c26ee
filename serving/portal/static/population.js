// The population report: filters and sorts the table without loading the page again.
// Without this script the same form and links do it.
"use strict";

(() => {
  const filters = document.getElementById("filters");
  const cells = document.getElementById("cells");
  if (!filters || !cells) return;
  const QUIET_MS = 250;
  let soon;
  let asking;

  document.getElementById("apply").hidden = true;
  document.getElementById("quarter").addEventListener("change", (event) => event.target.form.requestSubmit());

  function fail(text, login) {
    const place = document.getElementById("failure");
    place.textContent = text;
    if (login) {
      const link = document.createElement("a");
      link.href = login;
      link.textContent = "Sign in";
      place.append(" ", link);
    }
    place.hidden = !text;
  }

  async function show(address, focused) {
    if (asking) asking.abort();
    const mine = (asking = new AbortController());
    cells.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(address, { headers: { Accept: "application/json" }, signal: mine.signal });
      const told = await answer.json();
      if (!answer.ok) {
        fail(`The table was not changed. ${told.said}`, told.login);
        return;
      }
      fail("");
      cells.innerHTML = told.html;
      history.replaceState(null, "", address);
      keepOrder(new URL(address, location.href).searchParams);
      const next = focused && [...cells.querySelectorAll("[data-again]")].find((link) => link.textContent === focused);
      if (next) next.focus();
    } catch (error) {
      if (error.name !== "AbortError") fail("The table was not changed: the service does not answer. Try again.");
    } finally {
      if (asking === mine) cells.removeAttribute("aria-busy");
    }
  }

  // What was sorted by a click stays so when a filter is changed.
  function keepOrder(said) {
    document.getElementById("sort").value = said.get("sort") || "";
    document.getElementById("order").value = said.get("order") === "up" ? "up" : "";
  }

  function apply() {
    const said = new URLSearchParams();
    for (const [name, value] of new FormData(filters)) if (value.trim()) said.set(name, value.trim());
    show(`${new URL(filters.action).pathname}?${said}`);
  }

  filters.addEventListener("input", (event) => {
    clearTimeout(soon);
    soon = setTimeout(apply, event.target.type === "search" ? QUIET_MS : 0);
  });
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(soon);
    apply();
  });
  cells.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-again]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    const address = new URL(link.href);
    show(address.pathname + address.search, link.textContent);
  });
})();
