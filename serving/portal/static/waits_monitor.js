// The monitor of wait-time models: a choice shows at once. Without this script a button does it.
"use strict";

(() => {
  const filters = document.getElementById("filters");
  if (!filters) return;
  document.getElementById("apply").hidden = true;
  filters.addEventListener("change", () => filters.requestSubmit());
})();
