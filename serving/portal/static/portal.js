// On every page: "/" goes to the field that filters. In the print view: the button that prints.
"use strict";

const now = document.getElementById("now");
if (now) {
  now.hidden = false;
  now.addEventListener("click", () => window.print());
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=radio]), select, textarea");
  const field = document.getElementById("text");
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing || !field) return;
  event.preventDefault();
  field.focus();
  field.select();
});
