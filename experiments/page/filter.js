"use strict";
const choice = document.querySelector("select");
const marked = [...document.querySelectorAll("[data-application]")];
function show() {
  for (const part of marked) part.hidden = Boolean(choice.value) && part.dataset.application !== choice.value;
  for (const group of document.querySelectorAll("section.applications")) {
    group.hidden = marked.every((part) => part.hidden || !group.contains(part));
  }
}
choice.addEventListener("change", () => {
  history.replaceState(null, "", choice.value ? "#" + choice.value : location.pathname);
  show();
});
const wanted = location.hash.slice(1);
if ([...choice.options].some((option) => option.value === wanted)) choice.value = wanted;
choice.closest(".filter").hidden = false;
show();
for (const box of document.querySelectorAll(".picture")) {
  box.addEventListener("click", () => box.classList.toggle("large"));
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") box.classList.toggle("large"); });
}
