// The form for one patient: asks for the risk when all fields are filled in and somebody stops typing.
// Without this script the button "Show the risk" does it.
"use strict";

(() => {
  const form = document.getElementById("patient");
  if (!form) return;
  const at = (id) => document.getElementById(id);
  const fields = [...form.querySelectorAll("[data-field]")];
  const QUIET_MS = 300;
  const SPOKEN_AFTER_MS = 1200;
  let soon;
  let spoken;
  let asking;
  let asked = "";

  at("show").hidden = true;

  function text(field) {
    const name = field.dataset.field;
    const found = new FormData(form).get(name);
    return found === null ? "" : String(found).trim();
  }

  // What the server will say of a count, before it is asked; everything else cannot be wrong here.
  function problem(field) {
    const value = text(field);
    const input = field.querySelector("input[data-min]");
    if (!value || !input) return "";
    const whole = /^[0-9]{1,9}$/.test(value) ? Number(value) : NaN;
    return whole >= Number(input.dataset.min) && whole <= Number(input.dataset.max) ? "" : field.dataset.message;
  }

  function tell(field, message) {
    at(`${field.dataset.field}-problem`).textContent = message;
    const input = field.querySelector("input:not([type=radio]), select");
    if (input && message) input.setAttribute("aria-invalid", "true");
    else if (input) input.removeAttribute("aria-invalid");
  }

  function note(words) {
    const paragraph = document.createElement("p");
    paragraph.className = "note";
    paragraph.textContent = words;
    at("risk").replaceChildren(paragraph);
    asked = "";
  }

  function say(words) {
    clearTimeout(spoken);
    spoken = setTimeout(() => {
      if (at("said").textContent !== words) at("said").textContent = words;
    }, SPOKEN_AFTER_MS);
  }

  function fail(words, login) {
    const place = at("failure");
    place.textContent = words;
    if (login) {
      const link = document.createElement("a");
      link.href = login;
      link.textContent = "Sign in";
      place.append(" ", link);
    }
    place.hidden = !words;
  }

  function look() {
    const wrong = fields.filter((field) => problem(field));
    const left = fields.filter((field) => !text(field));
    for (const field of fields) if (!wrong.includes(field)) tell(field, "");
    if (wrong.length || left.length) {
      if (asking) asking.abort();
      if (wrong.length) note("One field is not valid, so there is no risk to show.");
      else if (left.length < fields.length) note(`Fill in the other ${left.length === 1 ? "field" : `${left.length} fields`} to see the risk.`);
      return;
    }
    ask();
  }

  async function ask() {
    const said = new URLSearchParams([...new FormData(form)].filter(([name]) => name !== "encounter_id" && name !== "patient_id"));
    said.set("do", "show");
    if (said.toString() === asked) return;
    if (asking) asking.abort();
    asking = new AbortController();
    const mine = asking;
    at("risk").setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(form.action, { method: "POST", body: said, headers: { Accept: "application/json" }, signal: mine.signal });
      const told = await answer.json();
      if (mine !== asking) return;
      if (answer.ok) {
        at("risk").innerHTML = told.html;
        asked = said.toString();
        fail("");
        say(told.said);
      } else {
        for (const field of fields) tell(field, (told.problems || {})[field.dataset.field] || "");
        note("There is no risk to show.");
        fail(told.problems ? "" : told.said, told.login);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      // An older risk beside changed fields would be another patient's.
      note("There is no risk to show.");
      fail("The service does not answer. Change a field to try again.");
    } finally {
      if (mine === asking) at("risk").removeAttribute("aria-busy");
    }
  }

  form.addEventListener("input", (event) => {
    if (!event.target.closest("[data-field]")) return;
    clearTimeout(soon);
    soon = setTimeout(look, QUIET_MS);
  });
  // A wrong number is told when its field is left, not while it is being typed.
  form.addEventListener("change", (event) => {
    const field = event.target.closest("[data-field]");
    if (field) tell(field, problem(field));
  });
  look();
})();
