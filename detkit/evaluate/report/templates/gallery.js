// The gallery's filters, and the enlarged photo. Without this script the page shows everything, unfiltered.
(() => {
  "use strict";
  const form = document.querySelector(".filters");
  const gallery = document.querySelector(".gallery");
  const viewer = document.querySelector(".viewer");
  if (!form || !gallery || !viewer) return;

  const cards = [...gallery.querySelectorAll(".card")].map((card) => ({
    card,
    name: card.dataset.name.toLowerCase(),
    items: [...card.querySelectorAll(form.dataset.items)],
  }));
  const boxes = [...form.querySelectorAll("[name=k]")];
  const field = (name) => (form.elements[name] ? form.elements[name].value : "");

  function wanted() {
    const kinds = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const label = field("c"), error = field("e");
    const low = field("low") === "" ? 0 : Number(field("low"));
    const high = field("high") === "" ? 1 : Number(field("high"));
    const asked = kinds.size < boxes.length || label !== "" || error !== "" || low > 0 || high < 1;
    const fits = ({ k, c, s, e }) =>
      kinds.has(k) && (label === "" || c === label) && (error === "" || e === error) &&
      (s === undefined || (Number(s) >= low && Number(s) <= high));
    return { asked, fits };
  }

  function apply() {
    const { asked, fits } = wanted();
    const part = field("q").trim().toLowerCase();
    let photos = 0, matches = 0;
    for (const { card, name, items } of cards) {
      let own = 0;
      for (const item of items) {
        const kept = fits(item.dataset);
        item.classList.toggle("off", !kept);
        own += kept ? 1 : 0;
      }
      card.hidden = !name.includes(part) || (asked && own === 0);
      photos += card.hidden ? 0 : 1;
      matches += card.hidden ? 0 : own;
    }
    const labels = form.elements.labels;
    gallery.classList.toggle("nolabels", labels !== undefined && !labels.checked);
    form.querySelector("output").textContent = `${matches} match${matches === 1 ? "" : "es"} on ${photos} of ${cards.length} photos`;
  }

  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  apply();

  let current = null;
  const shown = () => cards.map(({ card }) => card).filter((card) => !card.hidden);

  function show(card) {
    const list = shown(), photo = card.querySelector(".photo");
    current = card;
    const copy = document.createElement("div");
    copy.className = photo.classList.contains("pair") ? "pair" : "single";
    copy.append(...[...photo.childNodes].map((node) => node.cloneNode(true)));
    copy.querySelectorAll("[id]").forEach((node) => {
      const use = document.createElementNS(node.namespaceURI, "use");
      use.setAttribute("href", `#${node.id}`);
      node.replaceWith(use);
    });
    copy.querySelectorAll(".boxes").forEach((boxes) => boxes.setAttribute("font-size", 0.6 * boxes.getAttribute("font-size")));
    const first = copy.querySelector(".boxes").viewBox.baseVal;
    const columns = copy.className === "pair" ? 2 : 1;
    copy.style.maxWidth = `calc((92vh - 9rem) * ${(columns * first.width) / first.height})`;
    viewer.querySelector(".stage").replaceChildren(copy);
    viewer.querySelector(".words").replaceChildren(card.querySelector("figcaption").cloneNode(true));
    viewer.querySelector(".place").textContent = `${list.indexOf(card) + 1} of ${list.length}`;
    if (!viewer.open) viewer.showModal();
  }

  function step(by) {
    const list = shown();
    const next = list[list.indexOf(current) + by];
    if (next) show(next);
  }

  gallery.addEventListener("click", (event) => {
    const photo = event.target.closest(".photo");
    if (!photo || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(photo.closest(".card"));
  });
  viewer.addEventListener("click", (event) => {
    const by = event.target.dataset && event.target.dataset.step;
    if (by) step(Number(by));
    if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  viewer.querySelector(".names").addEventListener("change", (event) => {
    viewer.classList.toggle("named", event.target.checked);
  });
  viewer.addEventListener("close", () => {
    viewer.querySelector(".stage").replaceChildren();
    if (current) current.querySelector(".photo").focus();
  });
})();
