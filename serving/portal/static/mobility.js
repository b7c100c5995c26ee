// A patient's mobility: the day under the pointer in words. The table below the chart has all days.
"use strict";

(() => {
  const drawing = document.querySelector(".days-of-steps");
  const readout = document.getElementById("readout");
  const rows = [...document.querySelectorAll("#days tbody tr")].reverse();
  if (!drawing || !readout || !rows.length) return;
  // A day without data has two marks; the first one stands for it.
  const marks = [...drawing.querySelectorAll(".bar, .gap")];
  let chosen;

  function show(event) {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * 100;
    const place = marks.findLastIndex((mark) => parseFloat(mark.getAttribute("x")) <= at);
    const last = marks.length - 1;
    const past = place === last && at > 2 * parseFloat(marks[last].getAttribute("x")) - parseFloat(marks[last - 1].getAttribute("x"));
    if (place < 0 || past) {
      clear();
      return;
    }
    const [day, steps, worn] = [...rows[place].cells].map((cell) => cell.textContent);
    readout.textContent = steps === "–" ? `${day}: ${worn.toLowerCase()}` : `${day}: ${steps} steps, ${worn.toLowerCase()}`;
    if (chosen) chosen.classList.remove("chosen");
    chosen = marks[place];
    chosen.classList.add("chosen");
  }

  function clear() {
    readout.textContent = "";
    if (chosen) chosen.classList.remove("chosen");
    chosen = undefined;
  }

  readout.hidden = false;
  drawing.addEventListener("pointermove", show);
  drawing.addEventListener("pointerdown", show);
  drawing.addEventListener("pointerleave", clear);
})();
