"use strict";
document.documentElement.classList.add("scripted");

// Animations: the slider moves all of them to the same share of training.
const films = [...document.querySelectorAll(".film img")];
const pause = document.getElementById("pause");
if (films.length) {
  const slider = Object.assign(document.createElement("input"), {
    type: "range", min: 0, max: 1000, value: 1000,
  });
  slider.setAttribute("aria-label", "Share of training");
  pause.parentElement.append(slider);
  const share = () => slider.value / 1000;
  const show = () => {
    for (const film of films) {
      const frames = Number(film.dataset.frames);
      const images = film.dataset.images ? film.dataset.images.split(" ").map(Number) : [];
      let frame = Math.round(share() * (frames - 1));
      if (images.length) { // the last picture drawn before this moment of training
        const now = images[0] + share() * (images[images.length - 1] - images[0]);
        frame = images.filter((image) => image <= now + 1e-6).length - 1;
        const note = film.closest("figure").querySelector("small");
        note.textContent = "after " + images[frame].toLocaleString("en") + " images";
      }
      film.style.animation = "none";
      film.style.transform = `translateY(${-100 * frame / frames}%)`;
    }
    slider.setAttribute("aria-valuetext", Math.round(100 * share()) + " % of training");
  };
  let started = 0;
  const play = (now) => {
    if (pause.checked) return;
    const phase = ((now - started) / 9000) % 1;
    slider.value = 1000 * Math.min(1, phase / 0.82);
    show();
    requestAnimationFrame(play);
  };
  const start = () => {
    started = performance.now() - 0.82 * 9000 * (share() < 1 ? share() : 0);
    requestAnimationFrame(play);
  };
  pause.addEventListener("change", () => pause.checked || start());
  slider.addEventListener("input", () => { pause.checked = true; show(); });
  addEventListener("beforeprint", () => {
    pause.checked = true;
    slider.value = 1000;
    show();
  });
  pause.checked = matchMedia("(prefers-reduced-motion: reduce)").matches;
  show();
  if (!pause.checked) start();
}

// Tables: a click on a heading sorts by it, another click turns the order.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.sort;
      const name = (row) => row.cells[column].textContent.trim();
      body.append(...[...body.rows].sort((a, b) => {
        if (column === 0) return order * name(a).localeCompare(name(b));
        if (key(a) === undefined || key(b) === undefined) return (key(a) === undefined) - (key(b) === undefined);
        return order * (key(a) - key(b));
      }));
    });
  });
}

// On paper nothing stays folded.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
