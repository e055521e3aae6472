// Shows and hides the curves of a run by its box in the legend, and emphasises those that are pointed at.
"use strict";
for (const entry of document.querySelectorAll(".legend [data-run]")) {
  const lines = document.querySelectorAll(`.run[data-run="${entry.dataset.run}"]`);
  const mark = (name, on) => lines.forEach((line) => line.classList.toggle(name, on));
  const box = entry.querySelector("input");
  box.hidden = false;
  box.addEventListener("change", () => mark("off", !box.checked));
  for (const kind of ["pointerenter", "focusin"]) entry.addEventListener(kind, () => mark("strong", true));
  for (const kind of ["pointerleave", "focusout"]) entry.addEventListener(kind, () => mark("strong", false));
}
for (const button of document.querySelectorAll("button[data-show]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    for (const box of button.closest("section").querySelectorAll(".legend input")) {
      if (box.checked !== (button.dataset.show === "all")) box.click();
    }
  });
}
